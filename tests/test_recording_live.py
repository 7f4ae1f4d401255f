# SPDX-License-Identifier: GPL-2.0-or-later
"""Recording a VMM of ours, to the last ioctl against its own log, and whatever happens to it or to us."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kvmharness.recording.lines import Line, Recording, from_text
from tests.limits import GIVE_UP_S

pytestmark = pytest.mark.kvm

SOURCE = Path(__file__).parent / "vmms" / "four_threads.c"
RECORD = (sys.executable, "-m", "kvmharness", "record", "--output")
ROOT = Path(__file__).parent.parent

# An ioctl as the VMM's log and the recording have it: its name, and a value; KVM_RUNs in a row are one.
Ioctl = tuple[str, int]


@pytest.fixture(scope="session")
def vmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static VMM."""
    if shutil.which("cc") is None:
        pytest.skip("missing capability C compiler: there is no cc")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("missing capability /dev/kvm")
    program = tmp_path_factory.mktemp("vmm") / "four_threads"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o", str(program)]
    subprocess.run([*command, str(SOURCE)], check=True)
    return program


def logged(log: Path) -> dict[int, list[Ioctl]]:
    """What each thread made, by the VMM's own log."""
    found: dict[int, list[Ioctl]] = defaultdict(list)
    for line in log.read_text().splitlines():
        thread, op, value = line.split()
        _add(found[int(thread)], op, int(value))
    return found


def recorded(recording: Recording) -> dict[int, list[Ioctl]]:
    """The same by the recording: threads go by the vCPU that each made."""
    vcpus = {line.thread: line.vcpu for line in recording.lines if line.op == "create_vcpu"}
    found: dict[int, list[Ioctl]] = defaultdict(list)
    for line in recording.lines:
        thread = vcpus.get(line.thread)
        if thread is not None and line.op != "enter" and not line.died:
            _add(found[thread], line.op, _value(line))
    return found


def _value(line: Line) -> int:
    if line.op == "kvmclock_ctrl":
        return 22 if line.error == "EINVAL" else 0
    by_op = {"run": "count", "get_tsc_khz": "khz", "get_clock": "clock", "set_clock": "clock"}
    if line.op in by_op:
        return line.values[by_op[line.op]]
    return line.vcpu or 0 if line.op == "create_vcpu" else line.msr("TSC") or 0


def _add(found: list[Ioctl], op: str, value: int) -> None:
    if op == "run" and found and found[-1][0] == "run":
        value += found.pop()[1]
    found.append((op, value))


def record(vmm: Path, folder: Path, seed: int, count: int = 60) -> tuple[Path, Path]:
    output, log = folder / f"{seed}.jsonl", folder / f"{seed}.log"
    done = subprocess.run(
        [*RECORD, str(output), "--", str(vmm), str(log), str(count), str(seed)],
        cwd=ROOT,
        check=False,
        timeout=GIVE_UP_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return output, log


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.full)])
def test_four_threads_are_recorded_to_the_last_ioctl(vmm: Path, tmp_path: Path, times: int) -> None:
    for seed in range(times):
        output, log = record(vmm, tmp_path, seed)
        recording = from_text(output.read_text())
        assert recorded(recording) == logged(log)
        assert recording.end == "the command exited with 0"
        assert recording.program(0) == "four_threads"


def wait_for(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the VMM does something."""
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.001)


def is_prefix(short: list[Ioctl], whole: list[Ioctl]) -> bool:
    """Whether a thread's log is the beginning of what was recorded of it, but for runs being counted."""
    for place, (op, value) in enumerate(short):
        if place >= len(whole) or whole[place][0] != op:
            return False
        if whole[place][1] != value and not (op == "run" and place == len(short) - 1):
            return False
    return True


@contextmanager
def recorded_until(
    moment: float, vmm: Path, output: Path, log: Path, *, seed: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A recorder, and the process of the VMM that it records, so many seconds after that has begun."""
    command = [*RECORD, str(output), "--", str(vmm), str(log), "1000000", str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as recorder:
        wait_for(log, recorder)
        time.sleep(moment)
        (child,) = Path(f"/proc/{recorder.pid}/task/{recorder.pid}/children").read_text().split()
        yield recorder, int(child)


@pytest.mark.parametrize("moments", [5, pytest.param(50, marks=pytest.mark.full)])
def test_a_vmm_that_is_killed_leaves_a_whole_recording(vmm: Path, tmp_path: Path, moments: int) -> None:
    chance = random.Random(1)
    for number in range(moments):
        output, log = tmp_path / f"{number}.jsonl", tmp_path / f"{number}.log"
        with recorded_until(chance.random() * 0.2, vmm, output, log, seed=number) as (recorder, child):
            os.kill(child, signal.SIGKILL)
            assert recorder.wait(GIVE_UP_S) == 128 + signal.SIGKILL
        recording = from_text(output.read_text())
        assert recording.end == f"the command exited with {128 + signal.SIGKILL}"
        found = recorded(recording)
        for thread, made in logged(log).items():
            assert is_prefix(made, found[thread])
            # What it was in when it was killed, and what it had not yet logged.
            assert len(found[thread]) <= len(made) + 2


@pytest.mark.parametrize("moments", [3, pytest.param(50, marks=pytest.mark.full)])
def test_a_recorder_that_is_killed_takes_the_command_along_and_leaves_every_line(
    vmm: Path, tmp_path: Path, moments: int
) -> None:
    chance = random.Random(2)
    for number in range(moments):
        output, log = tmp_path / f"{number}.jsonl", tmp_path / f"{number}.log"
        with recorded_until(chance.random() * 0.2, vmm, output, log, seed=number) as (recorder, child):
            recorder.kill()
        while Path(f"/proc/{child}").exists() and "Z" not in _state(child):
            time.sleep(0.01)
        recording = from_text(output.read_text())
        assert not recording.end
        # KVM_RUNs that were being counted are lost with the recorder.
        events = {thread: _without_runs(made) for thread, made in recorded(recording).items()}
        for thread, made in logged(log).items():
            assert is_prefix(_without_runs(made), events[thread])


def _without_runs(made: list[Ioctl]) -> list[Ioctl]:
    return [each for each in made if each[0] != "run"]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_process_that_runs_is_recorded_and_goes_on_when_it_is_let_go(vmm: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "r.jsonl", tmp_path / "log"
    with subprocess.Popen([str(vmm), str(log), "1000000", "1"]) as process:
        try:
            wait_for(log, process)
            # A shell starts what it puts into the background with SIGINT ignored, and that is inherited.
            stoppable = ("env", "--default-signal=INT", *RECORD)
            with subprocess.Popen(
                [*stoppable, str(output), "--pid", str(process.pid)], cwd=ROOT, stderr=subprocess.DEVNULL
            ) as recorder:
                vcpus = [f'"vcpu": {number}, ' for number in range(4)]
                while not output.exists() or not all(each in output.read_text() for each in vcpus):
                    assert recorder.poll() is None
                    time.sleep(0.01)
                recorder.send_signal(signal.SIGINT)
                assert recorder.wait(GIVE_UP_S) == 0
            size = log.stat().st_size
            deadline = time.monotonic() + GIVE_UP_S
            while log.stat().st_size == size and time.monotonic() < deadline:
                time.sleep(0.01)
            assert log.stat().st_size > size
            assert process.poll() is None
        finally:
            process.kill()
    recording = from_text(output.read_text())
    assert recording.end == "its process ended, or was let go"
    assert recording.vms() == [0]
    assert {line.vcpu for line in recording.lines if line.vcpu is not None} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 7", 7),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("trap 'exit 9' USR1; kill -USR1 $$; exit 1", 9),
    ],
)
def test_the_exit_status_is_the_commands(tmp_path: Path, script: str, status: int) -> None:
    command = [*RECORD, str(tmp_path / "r.jsonl"), "--", "sh", "-c", script]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == status


def test_a_command_that_stops_itself_goes_on_when_it_is_continued(tmp_path: Path) -> None:
    script = "kill -STOP $$; exit 5"
    command = [*RECORD, str(tmp_path / "r.jsonl"), "--", "sh", "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as recorder:
        children = Path(f"/proc/{recorder.pid}/task/{recorder.pid}/children")
        child = ""
        while not child or _state(int(child)) not in "tT":
            child = children.read_text().strip()
            time.sleep(0.01)
        time.sleep(0.1)
        assert recorder.poll() is None
        assert _state(int(child)) in "tT"
        # On a busy machine it may only be about to stop itself, and then is not continued yet.
        end = time.monotonic() + GIVE_UP_S
        while recorder.poll() is None and time.monotonic() < end:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGCONT)
            time.sleep(0.1)
        assert recorder.wait(0) == 5


def test_a_child_that_outlives_the_command_is_followed_to_its_end(vmm: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "r.jsonl", tmp_path / "log"
    script = f"(sleep 0.2; exec {vmm} {log} 20 1) & exit 0"
    command = [*RECORD, str(output), "--", "sh", "-c", script]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    assert recorded(from_text(output.read_text())) == logged(log)


def test_a_signal_to_the_recorder_reaches_the_command(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap 'exit 11' TERM; touch {ready}; while :; do sleep 0.05; done"
    command = [*RECORD, str(tmp_path / "r.jsonl"), "--", "sh", "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as recorder:
        while not ready.exists():
            time.sleep(0.01)
        recorder.terminate()
        assert recorder.wait(GIVE_UP_S) == 11


def test_what_cannot_be_recorded_is_one_line_and_leaves_the_former_recording(tmp_path: Path) -> None:
    output = tmp_path / "r.jsonl"
    output.write_text("a former one\n")
    command = [*RECORD, str(output), "--", "/nonexistent/vmm"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No such file or directory" in done.stderr
    assert output.read_text() == "a former one\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
