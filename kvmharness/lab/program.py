# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a static program in a lab machine, with a kernel's KVM loaded. Its exit status is the verdict."""

import hashlib
import io
import marshal
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from kvmharness.judging.verdict import Verdict
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import console, machine, results, snapshot
from kvmharness.lab.machines.machine import Boot, Machine
from kvmharness.lab.play import image_for

# What a program's exit status says (Documentation/dev-tools/kselftest.rst).
_OF_STATUS = {0: Verdict.PASS, 4: Verdict.SKIP}
_MOST = 32 << 20
# From a snapshot, then once more without.
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program came to on a kernel: a verdict, why in words, and what it printed. Of a machine that was
    lost `console` are the last lines."""

    verdict: Verdict
    reason: str
    output: str = ""
    console: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read(path: Path) -> bytes:
    """A program's file. LabError in a line unless it is a static x86-64 ELF program; OSError."""
    with path.open("rb") as file:
        content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise LabError(f"{path}: larger than {_MOST >> 20} MiB")
    if content[:4] != b"\x7fELF":
        raise LabError(f"{path}: not an ELF program: a script cannot run in a lab machine")
    try:
        elf = ELFFile(io.BytesIO(content))
        arch, kind = elf.get_machine_arch(), elf["e_type"]
        segments = {str(each["p_type"]) for each in elf.iter_segments()}
    except Exception as error:
        # pyelftools checks little, and fails by whatever a wrong number leads to.
        raise LabError(f"{path}: not an ELF file that makes sense: {error}") from None
    if arch != "x64" or kind not in ("ET_EXEC", "ET_DYN") or "PT_LOAD" not in segments:
        raise LabError(f"{path}: not a program for x86-64")
    if "PT_INTERP" in segments:
        raise LabError(f"{path}: dynamically linked: a lab machine has no libraries; link it with -static")
    return content


def run(kernel: Kernel, on: Machine, program: bytes) -> Ran:
    """Boot the kernel and run the program there, or go on from a snapshot.

    A machine that is lost is tried again, without a snapshot. LabError when the kernel lacks what the machine
    needs.
    """
    number = hashlib.sha256(program).hexdigest()[:16]
    job = marshal.dumps((number, program))
    image = image_for(kernel, on)
    place = on.snapshot_place(kernel.vmlinux, image)
    kept = snapshot.load(place) if place else None
    lost: Boot | None = None
    why = ""
    for _ in range(_ATTEMPTS):
        boot = machine.boot(on, kernel.vmlinux, image, job, kept)
        fault = console.worst(boot.console)
        why = fault.text if fault else boot.complaint
        if not why:
            try:
                found = _ran(results.decode(number, boot.results), console.warnings(boot.console))
            except results.BrokenResultError as error:
                why = str(error)
            else:
                if place and boot.snapshot:
                    snapshot.keep(place, boot.snapshot)
                return found
        lost = boot
        if place:
            snapshot.forget(place)
        on, place, kept = on.without_snapshots, None, None
    words = console.last_words(lost.console) if lost else []
    return Ran(Verdict.LOST, f"{why}, {_ATTEMPTS} times", console=tuple(words))


def _ran(contents: Any, warnings: tuple[str, ...]) -> Ran:
    """What the frames of a run say. BrokenResultError where they are not those of a program."""
    output, status = b"", None
    try:
        for content in contents:
            if status is not None:
                raise ValueError("something after the end")
            if type(content) is int:
                status = content
            else:
                output += bytes.fromhex(content)
    except (TypeError, ValueError) as error:
        raise results.BrokenResultError(f"the result makes no sense: {error}") from None
    if status is None or not 0 <= status < 2**16:
        raise results.BrokenResultError("the result does not say how the program ended")
    return judged(status, output.decode(errors="replace"), warnings)


def judged(status: int, output: str, warnings: tuple[str, ...] = ()) -> Ran:
    """The verdict on a program that ended with this wait status (wait(2)) and printed this."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return Ran(Verdict.FAIL, f"the program was killed by {name}", output, warnings=warnings)
    code = os.WEXITSTATUS(status)
    verdict = _OF_STATUS.get(code, Verdict.FAIL)
    failed = [line.strip() for line in output.splitlines() if line.startswith("not ok")]
    if verdict is Verdict.PASS and failed:
        return Ran(Verdict.FAIL, f"exit status 0, but it printed '{failed[0]}'", output, warnings=warnings)
    skipped = [line for line in output.splitlines() if line.startswith("1..0 ")]
    if verdict is Verdict.PASS and skipped:
        return Ran(Verdict.SKIP, f"exit status 0, and it printed '{skipped[0].strip()}'", output)
    return Ran(verdict, f"exit status {code}", output, warnings=warnings)
