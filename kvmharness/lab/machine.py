# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated machines: what each is, and one boot of one."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass

from kvmharness.lab.errors import LabError

# What init puts on the exit port (init.c has the same numbers); QEMU's isa-debug-exit makes the
# machine's exit status of it: (number << 1) | 1. A kernel that panics makes QEMU exit with 0.
FINISHED, NO_MODULE, NOT_STARTED, FAILED = ((number << 1) | 1 for number in (0x20, 0x21, 0x22, 0x23))
_WORDS = {
    NO_MODULE: "a module did not load",
    NOT_STARTED: "the player could not be started",
    FAILED: "the player failed",
    0: "the kernel rebooted or panicked",
}

# Wall time after which a machine that said nothing more counts as hung. A good boot takes seconds.
HUNG_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Machine:
    """An emulated machine: which vendor module its CPU wants, and how its emulator is started.

    In `arguments`, {kernel}, {initrd}, {results} and {append} stand for this boot's own. The console
    goes to standard output. `kernel_options` are the kernel's command line.
    """

    name: str
    summary: str
    emulator: str
    package: str
    vendor_module: str
    arguments: tuple[str, ...]
    kernel_options: str


# What all of QEMU's machines have in common. Without cx16 because with it a 6.12 kernel crashed in most
# boots under QEMU 7.2. The calendar is the machine's own: setting the host's does not reach into it.
_QEMU = (
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
    *("-machine", "pc", "-cpu", "max,-cx16", "-m", "512"),
    *("-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"),
    *("-serial", "stdio", "-serial", "file:{results}"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
    *("-kernel", "{kernel}", "-initrd", "{initrd}", "-append", "{append}"),
)
# icount makes time a function of the instructions executed, 2 ns each, and the TSC count at 1 GHz.
_COUNTING_INSTRUCTIONS = ("-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off")

# The self-tests of the crypto library take a second, and a 6.12 kernel waits for them when it loads a
# module. An oops is a panic, so that it ends the machine and not only one of its tasks.
_OPTIONS = "console=ttyS0 loglevel=5 nokaslr cryptomgr.notests oops=panic panic=-1"
# Calibrating the local APIC's timer waits 200 ms of machine time in a loop, 2 s of ours; without it the
# kernel keeps time by the HPET, and KVM does not care.
_ONE_CPU = "nolapic_timer"
# Time is the host's here, and a busy host holds up a CPU for seconds. That is no fault of the kernel's: its
# watchdogs are off, and it takes the timer for connected without waiting for some ticks of it (it panics
# when they do not come in time). KVM's time has nothing to do with any of these.
_REAL_TIME = "no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"

AMD = Machine(
    name="amd",
    summary="QEMU's emulation of one AMD CPU, counting instructions for its clock: two boots are the same "
    "to the byte, and a guest's sleeps cost no time",
    emulator="qemu-system-x86_64",
    package="qemu-system-x86",
    vendor_module="kvm_amd",
    arguments=(*_QEMU, *_COUNTING_INSTRUCTIONS),
    kernel_options=f"{_OPTIONS} tsc=reliable {_ONE_CPU}",
)

AMD_UNSTABLE = Machine(
    name="amd-unstable",
    summary="amd with a kernel that takes its TSC for unstable: KVM then keeps guest TSCs in another way",
    emulator="qemu-system-x86_64",
    package="qemu-system-x86",
    vendor_module="kvm_amd",
    arguments=(*_QEMU, *_COUNTING_INSTRUCTIONS),
    kernel_options=f"{_OPTIONS} tsc=unstable {_ONE_CPU}",
)

AMD_SMP = Machine(
    name="amd-smp",
    summary="QEMU's emulation of two AMD CPUs that run at the same time, on the host's clock: threads move "
    "between CPUs; no two boots are the same",
    emulator="qemu-system-x86_64",
    package="qemu-system-x86",
    vendor_module="kvm_amd",
    arguments=(*_QEMU, "-accel", "tcg,thread=multi", "-smp", "2"),
    kernel_options=f"{_OPTIONS} tsc=reliable {_REAL_TIME}",
)

MACHINES = {machine.name: machine for machine in (AMD, AMD_SMP, AMD_UNSTABLE)}


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot: the emulator's exit status (negative: killed by that signal; None: hung and killed by
    us), what the console said, what came over the result port, and the wall time in seconds."""

    status: int | None
    console: str
    results: bytes
    seconds: float

    @property
    def complaint(self) -> str:
        """Why this was no good boot, in words; "" if init reported that all went well."""
        if self.status == FINISHED:
            return ""
        if self.status is None:
            return f"the machine hung: no end after {HUNG_AFTER_S:.0f} s"
        if self.status < 0:
            return f"the emulator was killed by signal {-self.status}"
        return _WORDS.get(self.status, f"the emulator ended with status {self.status}")


def check_emulator(machine: Machine) -> None:
    """LabError when a program the machine needs is not installed."""
    for program, package in ((machine.emulator, machine.package), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            raise LabError(f"machine {machine.name} needs {program}: install {package}")


def boot(machine: Machine, kernel: os.PathLike[str], initrd: bytes) -> Boot:
    """Boot a kernel once with this initial file system.

    Nothing touches the disk: image and results are anonymous files that vanish with the processes.
    The emulator is killed when this process dies, however it dies.
    """
    check_emulator(machine)
    initrd_fd = os.memfd_create("initrd", os.MFD_CLOEXEC)
    results_fd = os.memfd_create("results", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(initrd_fd), "wb") as file:
            file.write(initrd)
        values = {
            "kernel": os.fspath(kernel),
            "initrd": f"/proc/self/fd/{initrd_fd}",
            "results": f"/proc/self/fd/{results_fd}",
            "append": machine.kernel_options,
        }
        arguments = [argument.format(**values) for argument in machine.arguments]
        # setpriv (util-linux): the kernel kills the emulator when the thread that started it is gone.
        watched = ["setpriv", "--pdeathsig", "KILL", "--", machine.emulator, *arguments]
        begin = time.monotonic()
        with subprocess.Popen(
            watched,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C on the terminal is for the harness, which takes the emulator with it.
            start_new_session=True,
            pass_fds=(initrd_fd, results_fd),
        ) as process:
            try:
                console, _ = process.communicate(timeout=HUNG_AFTER_S)
                status: int | None = process.returncode
            except subprocess.TimeoutExpired:
                process.kill()
                console, _ = process.communicate()
                status = None
            except BaseException:
                process.kill()
                raise
        seconds = time.monotonic() - begin
        with os.fdopen(os.dup(results_fd), "rb") as file:
            file.seek(0)
            results = file.read()
        return Boot(status, console.decode(errors="replace"), results, seconds)
    finally:
        os.close(initrd_fd)
        os.close(results_fd)
