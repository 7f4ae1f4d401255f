# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that are lost: every way a run can end badly is told as what it is, and never judged."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from kvmharness.lab import kernels, play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import initramfs, machine, protocol, snapshot
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.machines.machine import Boot, Machine
from kvmharness.lab.machines.results import BrokenResultError
from kvmharness.lab.machines.snapshot import Snapshot
from kvmharness.scenarios import SCENARIOS
from tests.limits import GIVE_UP_S
from tests.machines import built_again, wait_until, with_init_that

pytestmark = pytest.mark.lab

Find = Callable[[str], Kernel]


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
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    broken_image(with_init_that("for (;;) pause();", tmp_path))
    impatient = dataclasses.replace(AMD, hang_after_s=1.0)
    with pytest.raises(play.LostMachineError, match="the machine hung"):
        play.play(kernel("debian:6.1"), impatient, [SCENARIOS["young-restore"]])


def test_a_result_written_by_a_machine_that_then_dies_does_not_count(
    kernel: Find, broken_image: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    # The whole result of this job, from an init that then panics the kernel.
    number = play.job_for([SCENARIOS["young-restore"]]).number
    frames = protocol.encode(number, ["probe", "6.1", [], {}]) + protocol.encode(number, protocol.END)
    numbers = ",".join(map(str, frames))
    does = (
        'mount("dev", "/dev", "devtmpfs", 0, 0); int f = open("/dev/ttyS1", O_WRONLY | O_NOCTTY); '
        "struct termios raw; tcgetattr(f, &raw); cfmakeraw(&raw); tcsetattr(f, TCSANOW, &raw); "
        f"unsigned char frames[] = {{ {numbers} }}; write(f, frames, sizeof(frames)); tcdrain(f); return 0;"
    )
    results: list[bytes] = []
    whole = machine.boot

    def keep(*args: object, **others: object) -> machine.Boot:
        booted = whole(*args, **others)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("moments", [4, pytest.param(50, marks=pytest.mark.full)])
def test_an_emulator_killed_at_any_moment_is_lost_and_never_judged(
    kernel: Find, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    """Every second one boots, the others go on from a snapshot."""
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    monkeypatch.setattr(snapshot, "forget", lambda place: None)
    found, scenarios = kernel("debian:6.1"), [SCENARIOS["young-restore"]]
    lengths: list[float] = []
    loads = [lambda place: None, snapshot.load]
    for each in loads:
        monkeypatch.setattr(snapshot, "load", each)
        begin = time.monotonic()
        play.play(found, AMD, scenarios)
        lengths.append(time.monotonic() - begin)
    chance = random.Random(1)
    ended: list[str] = []
    for moment in range(moments):
        monkeypatch.setattr(snapshot, "load", loads[moment % 2])
        hits: list[int] = []

        def kill(hits: list[int] = hits) -> None:
            for each in emulators():
                each.kill()
                hits.append(each.pid)

        timer = threading.Timer(0.8 * chance.random() * lengths[moment % 2], kill)

        def start_then_kill(timer: threading.Timer = timer) -> None:
            wait_until(lambda: bool(emulators()))
            timer.start()

        watcher = threading.Thread(target=start_then_kill)
        watcher.start()
        try:
            ended.append("" if play.play(found, AMD, scenarios).traces else "nothing was played")
        except play.LostMachineError as lost:
            ended.append(lost.complaint)
        watcher.join()
        timer.join()
        # Unless the emulator was faster this time, and had all but ended.
        assert ended[-1] == "" or (hits and "killed by signal 9" in ended[-1])
    assert ended.count("") <= moments / 2


@pytest.mark.full
@pytest.mark.parametrize("built", [False, True])
def test_a_run_that_is_lost_from_a_snapshot_is_tried_again_from_a_boot(
    kernel: Find, monkeypatch: pytest.MonkeyPatch, built: bool
) -> None:
    # No other test leaves a snapshot of it.
    own = dataclasses.replace(AMD, kernel_options=f"{AMD.kernel_options} kvmharness.test=lost")
    found, scenarios = kernel("debian:6.1"), [SCENARIOS["young-restore"]]
    found = built_again(found, "test-again-0") if built else found
    keeps = own.loading_modules_later if built else own
    place = keeps.snapshot_place(found.vmlinux, play.image_for(found, keeps))
    assert place is not None
    play.play(found, own, scenarios)
    starts: list[bool] = []
    boot = machine.boot

    def broken(
        on: Machine,
        vmlinux: Path,
        image: bytes,
        job: bytes,
        kept: Snapshot | None,
        *,
        modules: Mapping[str, bytes],
    ) -> Boot:
        """Whatever snapshot there is, or is left by a boot, is cut in half."""
        starts.append(kept is not None)
        if kept:
            kept = dataclasses.replace(kept, state=kept.state[: len(kept.state) // 2])
        return boot(on, vmlinux, image, job, kept, modules=modules)

    monkeypatch.setattr(machine, "boot", broken)
    for _ in range(2):
        starts.clear()
        played = play.play(found, own, scenarios)
        assert set(played.traces) == {"young-restore"}
        assert starts[-1] is False
        assert snapshot.load(place) is None


@pytest.mark.parametrize("cuts", [200, pytest.param(5000, marks=pytest.mark.full)])
def test_a_result_that_is_cut_or_changed_anywhere_is_lost_and_never_judged(
    kernel: Find, monkeypatch: pytest.MonkeyPatch, cuts: int
) -> None:
    monkeypatch.setattr(play, "ATTEMPTS", 1)
    found, scenarios = kernel("debian:6.1"), [SCENARIOS["young-restore"]]
    job = play.job_for(scenarios)
    boot = machine.boot(AMD, found.vmlinux, play.image_for(found, AMD), job.content)
    assert play._read(job, boot)
    chance = random.Random(1)
    for _ in range(cuts):
        at = chance.randrange(len(boot.results))
        changed = boot.results[at] ^ 1 << chance.randrange(8)
        damaged = chance.choice(
            (
                boot.results[:at],
                boot.results[:at] + boot.results[at + 1 + chance.randrange(300) :],
                boot.results[:at] + bytes((changed,)) + boot.results[at + 1 :],
                boot.results + boot.results[at:],
            )
        )
        with pytest.raises(BrokenResultError):
            play._read(job, dataclasses.replace(boot, results=damaged))


def test_a_machine_that_resets_itself_without_a_word_is_told_apart_from_a_panic(
    kernel: Find, tmp_path: Path
) -> None:
    # The keyboard controller's reset line, as a triple fault would pull it.
    piece = with_init_that("iopl(3); outb(0xfe, 0x64); for (;;) pause();", tmp_path)
    booted = machine.boot(AMD, kernel("debian:6.1").vmlinux, initramfs.base() + piece)
    assert booted.complaint == "the machine was reset: a triple fault, or a reboot"
    assert "Kernel panic" not in booted.console


@pytest.mark.full
@pytest.mark.parametrize("mib", [8, 100])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_built(mib: int, tmp_path: Path) -> None:
    """8 MiB do not hold the mirror's index, 100 not a kernel that is unpacked."""
    in_a_namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*in_a_namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("missing capability: user namespaces")
    command = f"{sys.executable} -m kvmharness lab run debian:6.1 --scenario old-restore"
    mount = f"mount -t tmpfs -o size={mib}m tmpfs {tmp_path}"
    script = f"{mount} && {command}; echo $?; find {tmp_path} -name 'building-*'"
    done = subprocess.run(
        [*in_a_namespace, "sh", "-c", script],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=GIVE_UP_S,
    )
    assert done.stdout == "2\n"
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line or "does not unpack" in line


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_killed_harness_leaves_no_emulator_and_no_file_behind(
    kernel: Find, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    kernel("debian:6.1")
    initramfs.python()
    # A shell starts what it puts into the background with SIGINT ignored, and that is inherited.
    as_in_a_terminal = ("env", "--default-signal=INT")
    command = [*as_in_a_terminal, sys.executable, "-m", "kvmharness", "lab", "run", "debian:6.1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    harness = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def children() -> list[psutil.Process]:
        return [each for each in psutil.Process(harness.pid).children() if each.name().startswith("qemu")]

    # Two, if there is a second CPU to spare.
    assert wait_until(lambda: bool(children()))
    emulators = children()
    harness.send_signal(number)
    harness.communicate()
    assert harness.returncode == status

    def all_gone() -> bool:
        return all(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in emulators)

    assert wait_until(all_gone)
    assert list(tmp_path.iterdir()) == []
