# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels in emulated machines: the verdicts, and what happens when a machine is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kvmharness.identity import Identity
from kvmharness.lab import image, kernels, machine, play, wire
from kvmharness.lab.cpio import Archive
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import AMD
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS
from kvmharness.session import Outcome
from kvmharness.trace import to_lines
from kvmharness.verdict import Expectation, Verdict, exit_status, judge
from tests.foretold import not_foretold, oddly_skipped

pytestmark = pytest.mark.lab

Find = Callable[[str], Kernel]
Ask = Callable[[str], Outcome]


def test_debian_6_1_snaps_to_its_own_start_up_value(outcome: Ask) -> None:
    assert not_foretold(outcome("debian:6.1"), "mainline-before-6.7", judged_by="mainline-6.7") == {}
    failed = {each.scenario for each in outcome("debian:6.1").results if each.verdict is Verdict.FAIL}
    assert {"young-restore", "qemu-pair-young", "write-after-run-near", "write-one"} <= failed
    assert exit_status(outcome("debian:6.1").results) == 1


def test_debian_6_12_does_what_mainline_since_6_7_does(outcome: Ask) -> None:
    assert not_foretold(outcome("debian:6.12"), "mainline-6.7") == {}
    assert oddly_skipped(outcome("debian:6.12"), "amd") == set()
    known = {each.scenario for each in outcome("debian:6.12").results if each.verdict is Verdict.XFAIL}
    assert {"restore-one-by-one", "zero-then-young-restore", "qemu-incoming-young"} <= known
    assert exit_status(outcome("debian:6.12").results) == 0


@pytest.mark.parametrize(
    ("spec", "policy"), [("debian:6.1", "mainline-before-6.7"), ("debian:6.12", "mainline-6.7")]
)
def test_a_kernel_judged_by_its_own_policy_fails_nothing(outcome: Ask, spec: str, policy: str) -> None:
    played = outcome(spec)
    for name, session in played.sessions.items():
        result = judge(SCENARIOS[name], session.traces[name], session.probe, Expectation(POLICIES[policy]))
        assert result.verdict in (Verdict.PASS, Verdict.XFAIL, Verdict.SKIP), result


def test_kernels_are_identified_by_what_they_do(outcome: Ask) -> None:
    assert outcome("debian:6.12").identity == Identity(("mainline-6.7",))
    # One CPU cannot tell these apart, and the report says what could.
    assert outcome("debian:6.1").identity == Identity(
        ("mainline-before-6.7", "like-xu-v1"),
        "offset-moved would part mainline-before-6.7 from like-xu-v1, but there is only one CPU to play on",
    )


def test_a_failure_says_what_was_read_what_had_to_be_and_who_would_do_it(outcome: Ask) -> None:
    (young,) = [each for each in outcome("debian:6.1").results if each.scenario == "young-restore"]
    assert young.step == 5
    assert young.reason.startswith("read the TSC offset of vCPU 0: -")
    assert "as of step 4 the write is honoured: userspace had set no TSC of this VM before" in young.reason
    assert young.reason.endswith("It is what mainline-before-6.7 or like-xu-v1 would do.")
    assert "behind what was due: the write was overridden" in young.finding


def test_two_boots_are_the_same_to_the_byte(kernel: Find, outcome: Ask) -> None:
    scenarios = list(SCENARIOS.values())
    first = next(iter(outcome("debian:6.12").sessions.values()))
    second = play.play(kernel("debian:6.12"), AMD, scenarios)
    for name in SCENARIOS:
        assert list(to_lines(first.traces[name])) == list(to_lines(second.traces[name]))
    assert list(to_lines(first.probe)) == list(to_lines(second.probe))


_INIT_HEADERS = "#include <fcntl.h>\n#include <unistd.h>\n#include <sys/mount.h>\n#include <termios.h>\n"


def with_init_that(does: str, tmp_path: Path) -> bytes:
    """A piece whose /init replaces the real one and does only this, in C."""
    source, program = tmp_path / "init.c", tmp_path / "init"
    source.write_text(f"{_INIT_HEADERS}int main(void) {{ {does} }}\n")
    subprocess.run(["cc", "-static", "-w", "-o", program, source], check=True, timeout=60)
    archive = Archive()
    archive.add_file("/init", program.read_bytes(), 0o755)
    return bytes(archive)


@pytest.fixture
def broken_image(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def use(piece: bytes) -> None:
        whole = play.image_for
        monkeypatch.setattr(play, "image_for", lambda *args: whole(*args) + piece)

    return use


def test_a_kernel_that_panics_is_lost_and_its_last_words_are_kept(
    kernel: Find, broken_image: Callable[[bytes], None], tmp_path: Path
) -> None:
    broken_image(with_init_that("return 7;", tmp_path))
    with pytest.raises(play.LostMachineError, match=r"the kernel panicked: .*3 times") as lost:
        play.play(kernel("debian:6.1"), AMD, [SCENARIOS["young-restore"]])
    assert any("Kernel panic - not syncing: Attempted to kill init" in line for line in lost.value.console)


def test_a_machine_that_hangs_is_given_up(
    kernel: Find, broken_image: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "HUNG_AFTER_S", 1.0)
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    broken_image(with_init_that("for (;;) pause();", tmp_path))
    with pytest.raises(play.LostMachineError, match="the machine hung"):
        play.play(kernel("debian:6.1"), AMD, [SCENARIOS["young-restore"]])


def test_a_result_written_by_a_machine_that_then_dies_does_not_count(
    kernel: Find, broken_image: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    # The whole result of this job, from an init that then panics the kernel.
    number, _ = play.job_for([SCENARIOS["young-restore"]])
    frames = wire.encode(number, ["probe", "6.1", []]) + wire.encode(number, wire.END)
    numbers = ",".join(map(str, frames))
    does = (
        'mount("dev", "/dev", "devtmpfs", 0, 0); int f = open("/dev/ttyS1", O_WRONLY | O_NOCTTY); '
        "struct termios raw; tcgetattr(f, &raw); cfmakeraw(&raw); tcsetattr(f, TCSANOW, &raw); "
        f"unsigned char frames[] = {{ {numbers} }}; write(f, frames, sizeof(frames)); tcdrain(f); return 0;"
    )
    results: list[bytes] = []
    whole = machine.boot

    def keep(*args: object) -> machine.Boot:
        booted = whole(*args)  # type: ignore[arg-type]
        results.append(booted.results)
        return booted

    monkeypatch.setattr(machine, "boot", keep)
    broken_image(with_init_that(does, tmp_path))
    with pytest.raises(play.LostMachineError, match="the kernel panicked"):
        play.play(kernel("debian:6.1"), AMD, [SCENARIOS["young-restore"]])
    assert results == [frames]


def test_a_module_that_does_not_load_is_named_on_the_console(
    kernel: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    bad = tmp_path / "kvm.ko"
    bad.write_bytes(b"no module at all")
    monkeypatch.setattr(kernels.Kernel, "modules_for", lambda *_: [bad])
    with pytest.raises(play.LostMachineError, match="a module did not load") as lost:
        play.play(kernel("debian:6.1"), AMD, [SCENARIOS["young-restore"]])
    assert any("/modules/kvm.ko: Exec format error" in line for line in lost.value.console)


def emulators() -> list[psutil.Process]:
    """This test's own emulators."""
    return [each for each in psutil.Process().children() if each.name().startswith("qemu-system")]


def kill_emulators() -> None:
    for each in emulators():
        each.kill()


def wait_until(condition: Callable[[], bool], tries: int = 600) -> bool:
    """Whether the condition came true within many tries; how long each takes does not matter."""
    for _ in range(tries):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("moments", [3, pytest.param(30, marks=pytest.mark.full)])
def test_an_emulator_killed_at_any_moment_is_lost_and_never_judged(
    kernel: Find, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    found = kernel("debian:6.1")
    for delay in (2.5 * moment / moments for moment in range(moments)):
        timer = threading.Timer(delay, kill_emulators)

        def start_then_kill(timer: threading.Timer = timer) -> None:
            wait_until(lambda: bool(emulators()))
            timer.start()

        watcher = threading.Thread(target=start_then_kill)
        watcher.start()
        with pytest.raises(play.LostMachineError, match="killed by signal 9"):
            play.play(found, AMD, [SCENARIOS["young-restore"]])
        watcher.join()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_killed_harness_leaves_no_emulator_and_no_file_behind(
    kernel: Find, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    kernel("debian:6.1")
    image.python()
    # A shell starts what it puts into the background with SIGINT ignored, and that is inherited.
    as_in_a_terminal = ("env", "--default-signal=INT")
    command = [*as_in_a_terminal, sys.executable, "-m", "kvmharness", "lab", "run", "debian:6.1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    harness = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def children() -> list[psutil.Process]:
        return [each for each in psutil.Process(harness.pid).children() if each.name().startswith("qemu")]

    assert wait_until(lambda: bool(children()))
    (emulator,) = children()
    harness.send_signal(number)
    harness.communicate()
    assert harness.returncode == status
    assert wait_until(lambda: not emulator.is_running() or emulator.status() == psutil.STATUS_ZOMBIE)
    assert list(tmp_path.iterdir()) == []
