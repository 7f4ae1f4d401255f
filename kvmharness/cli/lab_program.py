# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness lab run --program: run a static program in machines, and judge by its exit status and KTAP."""

import argparse
from collections.abc import Sequence

from kvmharness.cli import writing
from kvmharness.cli.errors import FAILED, MACHINE_LOST, NOTHING_FAILED, NOTHING_JUDGED, UsageError
from kvmharness.judging.verdict import Verdict
from kvmharness.lab import program
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.program import Ran
from kvmharness.printable import printable


def check(arguments: argparse.Namespace) -> bytes:
    """The program. UsageError where it is none, or an option says what only scenarios have."""
    for name, given in (
        ("--scenario", arguments.scenario),
        ("--scenario-file", arguments.scenario_file),
        ("--save-traces", arguments.save_traces),
        ("--format", arguments.format != "text"),
        ("--cluster", arguments.cluster),
    ):
        if given:
            raise UsageError(f"{name} is for scenarios: --program runs a program instead, and prints text")
    try:
        return program.read(arguments.program)
    except OSError as error:
        raise UsageError(f"cannot read {arguments.program}: {error.strerror}") from None


def run(content: bytes, boots: Sequence[tuple[Kernel, Machine]], arguments: argparse.Namespace) -> int:
    """Run it on each kernel and machine, and report; the exit status."""
    verdicts, lines, troubles = [], list[str](), list[LabError]()
    for kernel, machine in boots:
        try:
            ran = program.run(kernel, machine, content)
        except LabError as error:
            troubles.append(error)
            continue
        verdicts.append(ran.verdict)
        lines += _lines(kernel, machine, ran, arguments.program.name)
    if troubles and not verdicts:
        raise troubles[0]
    writing.write_text("".join(f"{line}\n" for line in lines), arguments.output)
    for trouble in troubles:
        writing.complain(f"kvmharness: {trouble}")
    if Verdict.FAIL in verdicts:
        return FAILED
    if troubles:
        raise UsageError(f"{len(troubles)} of {len(boots)} could not be played")
    if Verdict.LOST in verdicts:
        return MACHINE_LOST
    return NOTHING_FAILED if Verdict.PASS in verdicts else NOTHING_JUDGED


def _lines(kernel: Kernel, machine: Machine, ran: Ran, name: str) -> list[str]:
    head = f"{kernel.spec} on {machine.name} ({kernel.release})"
    lines = [f"{ran.verdict.name}  {head}: {name}: {ran.reason}"]
    lines += [f"  {printable(line)}".rstrip() for line in ran.output.splitlines()]
    lines += [f"  the kernel: {each}" for each in ran.warnings]
    return [*lines, *(f"  | {printable(each)}" for each in ran.console)]
