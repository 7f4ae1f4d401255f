# SPDX-License-Identifier: GPL-2.0-or-later
"""Small faults put into a real kernel's synchronization code, one at a time: built, played, judged.

tests/kernel-faults*.toml list them. Each changes one expression of one function of arch/x86/kvm/x86.c, or of
its `file`, which is looked up in the distribution's source when the modules are built.
"""

import atexit
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kvmharness.judging.difference import Comparison, compare_sessions
from kvmharness.judging.verdict import Expectation
from kvmharness.lab import build, runs
from kvmharness.lab import cache as lab_cache
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.patches import Patch
from kvmharness.lab.patches.diffs import FileDiff, Hunk
from kvmharness.lab.runs import Played
from kvmharness.scenarios import SCENARIOS, Scenario

LIST = Path(__file__).parent.parent / "tests" / "kernel-faults.toml"
SOURCE = "arch/x86/kvm/x86.c"
# The kernel that gets the faults. It follows the policy it is judged by, mainline-6.7.
SPEC = "debian:6.12"
# What is built has a name of this process, and goes when that ends.
_NAME = f"test-fault-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Fault:
    """In `function` of `file`, `old` (there once, white space aside) becomes `new`; in words, `breaks`.

    On the machine `on` the scenario `noticed_by` fails; where none does, `survives` says why. `differs` is
    whether `lab diff` distinguishes it.
    """

    name: str
    breaks: str
    function: str
    old: str
    new: str
    on: str = "amd"
    noticed_by: str = ""
    survives: str = ""
    file: str = SOURCE
    differs: bool = True


class FaultError(Exception):
    """A fault does not fit the kernel's source."""


def read(faults: Path = LIST) -> list[Fault]:
    """The faults, in the order of the list."""
    return [Fault(**each) for each in tomllib.loads(faults.read_text())["fault"]]


def patch(fault: Fault, source: str) -> Patch:
    """The fault as a patch of the kernel whose `file` is `source`.

    Its one hunk keeps the lines from the function's head on, so that it fits in one place only. FaultError
    where function or expression are not there, or more than once.
    """
    begin, body = _function(fault, source)
    found = list(re.finditer(r"\s*".join(map(re.escape, "".join(fault.old.split()))), body))
    if len(found) != 1:
        raise FaultError(f"{fault.name}: {fault.function}() has {len(found)} times {fault.old!r}")
    first = body.rfind("\n", 0, found[0].start()) + 1
    last = body.index("\n", found[0].end()) + 1
    changed = body[first : found[0].start()] + fault.new + body[found[0].end() : last]
    lines = [(" ", line) for line in body[:first].splitlines(keepends=True)]
    lines += [("-", line) for line in body[first:last].splitlines(keepends=True)]
    lines += [("+", line) for line in changed.splitlines(keepends=True)]
    number = source.count("\n", 0, begin) + 1
    hunk = Hunk(f"@@ {fault.function}", number, tuple(lines))
    return Patch(fault.name, (FileDiff(fault.file, [hunk]),))


def _function(fault: Fault, source: str) -> tuple[int, str]:
    """Where a function's definition begins, and its text."""
    head = rf"^\w[^\n;]*\b{fault.function}\([^;{{]*\)\n{{\n.*?^}}\n"
    found = list(re.finditer(head, source, re.MULTILINE | re.DOTALL))
    if len(found) != 1:
        raise FaultError(f"{fault.name}: {fault.file} defines {fault.function}() {len(found)} times")
    return found[0].start(), found[0][0]


def unmodified() -> Kernel:
    """The kernel with modules built the same way, but without a fault."""
    return _built([], "none")


def faulty(fault: Fault) -> Kernel:
    """The kernel with the fault."""
    source = build.ground(SPEC).tree.original(fault.file)
    assert source is not None, f"the source of {SPEC} has no {fault.file}"
    return _built([patch(fault, source)], fault.name)


def _built(patches: Sequence[Patch], name: str) -> Kernel:
    kernel = build.build(SPEC, patches, f"{_NAME}-{name}").kernel
    atexit.register(forget, kernel)
    return kernel


def forget(kernel: Kernel) -> None:
    """Take a kernel that was built out of the cache."""
    if kernel.folder.is_dir():
        lab_cache.removed(kernel.folder)


def played(kernel: Kernel, on: str, scenarios: Sequence[Scenario]) -> Played:
    """What was played on a machine, with its verdicts. It goes on from the snapshot that all builds share."""
    return runs.play_on(kernel, MACHINES[on], scenarios, Expectation())


@cache
def without_fault(on: str) -> Played:
    """The whole catalogue on the kernel without a fault: played once for each machine."""
    return played(unmodified(), on, list(SCENARIOS.values()))


def compared(fault: Fault, found: Played) -> Comparison:
    """What differs between the kernel without the fault and the one with it (`lab diff`), policies aside."""
    return compare_sessions(without_fault(fault.on).attempts, found.attempts)
