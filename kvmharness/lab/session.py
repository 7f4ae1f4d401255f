# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab run: one kernel on one machine, played until there is a verdict or the machine is given up."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness import capabilities
from kvmharness.lab import image, job, machine
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import Boot, Machine
from kvmharness.scenarios import Scenario
from kvmharness.script import Script
from kvmharness.trace import Trace, TraceError

ATTEMPTS = 3
PROBE_NAME = "probe"


class LostMachineError(Exception):
    """Every attempt lost the machine. `complaint` says how the last one went, `console` its last lines."""

    def __init__(self, complaint: str, console: list[str]) -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.console = console


@dataclass(frozen=True, slots=True)
class Session:
    """What a lab run brought back: the probe's trace, and the scenarios' by name."""

    probe: Trace
    traces: dict[str, Trace]


def image_for(kernel: Kernel, on: Machine, job_text: str) -> bytes:
    """The whole initial file system of a lab run."""
    modules = image.modules(kernel.modules_for(on.vendor_module))
    return image.base() + image.python() + modules + image.job(job_text)


def play(kernel: Kernel, on: Machine, scenarios: Sequence[Scenario]) -> Session:
    """Boot the kernel, play the probe and the scenarios inside, bring the traces back.

    LostMachineError when no attempt came to its end; LabError when the kernel lacks what the machine
    needs.
    """
    scripts: dict[str, Script] = {PROBE_NAME: capabilities.PROBE}
    scripts.update({scenario.name: scenario.script for scenario in scenarios})
    # The number is made of the content, so that equal jobs are equal to the byte.
    number = hashlib.sha256(job.to_json("", scripts).encode()).hexdigest()[:16]
    initrd = image_for(kernel, on, job.to_json(number, scripts))
    for attempt in range(1, ATTEMPTS + 1):
        boot = machine.boot(on, kernel.vmlinux, initrd)
        try:
            traces = _read(number, boot)
            break
        except TraceError as error:
            if attempt == ATTEMPTS:
                raise LostMachineError(f"{error}, {ATTEMPTS} times", last_lines(boot.console)) from None
    return Session(traces[0], {trace.scenario: trace for trace in traces[1:]})


def _read(number: str, boot: Boot) -> list[Trace]:
    """The traces of a boot that went well in every respect; TraceError if anything speaks against it."""
    if boot.complaint:
        raise TraceError(boot.complaint)
    traces = job.read_result(number, boot.results)
    if not traces or traces[0].scenario != PROBE_NAME:
        raise TraceError("the result holds no probe")
    return traces


def last_lines(console: str, count: int = 12) -> list[str]:
    """The console's last lines that say anything."""
    return [line.rstrip() for line in console.splitlines() if line.strip()][-count:]
