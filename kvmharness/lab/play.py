# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays inside a lab machine; a machine that is lost is booted again, and given up the third time."""

import hashlib
import marshal
from collections.abc import Sequence

from kvmharness import trace
from kvmharness.lab import image, machine, wire
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import Boot, Machine
from kvmharness.scenarios import Scenario
from kvmharness.session import PROBE_NAME, LostError, Session, plays
from kvmharness.trace import Trace, TraceError

ATTEMPTS = 3

# What the kernel calls its faults on the console.
_DEADLY = ("Kernel panic", "BUG:", "Oops:")
_FAULTS = (*_DEADLY, "WARNING:")


class LostMachineError(LostError):
    """Every attempt lost the machine. `complaint` says how the last one went, `console` its last lines."""

    def __init__(self, complaint: str, console: list[str]) -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.console = console


def job_for(scenarios: Sequence[Scenario]) -> tuple[str, bytes]:
    """A job's number and content: the probe and these scenarios.

    The number is made of the content, so that equal jobs are equal to the byte.
    """
    content = plays(scenarios)
    number = hashlib.sha256(marshal.dumps(content)).hexdigest()[:16]
    return number, marshal.dumps((number, content))


def image_for(kernel: Kernel, on: Machine, job: bytes) -> bytes:
    """The whole initial file system of a lab run."""
    modules = image.modules(kernel.modules_for(on.vendor_module))
    return image.base() + image.python() + modules + image.job(job)


def play(kernel: Kernel, on: Machine, scenarios: Sequence[Scenario]) -> Session:
    """Boot the kernel, play the probe and the scenarios inside, bring the traces back.

    LostMachineError when no attempt came to its end; LabError when the kernel lacks what the machine
    needs.
    """
    number, job = job_for(scenarios)
    initrd = image_for(kernel, on, job)
    for attempt in range(1, ATTEMPTS + 1):
        boot = machine.boot(on, kernel.vmlinux, initrd)
        try:
            traces = _read(number, boot)
            break
        except wire.BrokenResultError as error:
            if attempt == ATTEMPTS:
                raise LostMachineError(f"{error}, {ATTEMPTS} times", last_words(boot.console)) from None
    return Session(traces[0], {each.scenario: each for each in traces[1:]})


def _read(number: str, boot: Boot) -> list[Trace]:
    """The traces of a boot; BrokenResultError unless it went well in every respect."""
    if boot.complaint:
        raise wire.BrokenResultError(boot.complaint)
    if any(fault in boot.console for fault in _DEADLY):
        raise wire.BrokenResultError("the kernel reported a fault of its own")
    try:
        traces = [trace.from_played(*content) for content in wire.decode(number, boot.results)]
    except (TraceError, TypeError, ValueError) as error:
        raise wire.BrokenResultError(f"the result makes no sense: {error}") from None
    if not traces or traces[0].scenario != PROBE_NAME:
        raise wire.BrokenResultError("the result holds no probe")
    return traces


def last_words(console: str, count: int = 12) -> list[str]:
    """The console's last lines that say anything, behind the earlier ones that name a fault."""
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    faults = [line for line in lines[:-count] if any(fault in line for fault in _FAULTS)]
    return faults[:count] + lines[-count:]
