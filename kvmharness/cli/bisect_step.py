# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness bisect-step: one step of `git bisect run`. It answers by its exit status, as git wants it."""

import argparse
import errno
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kvmharness import host
from kvmharness.cli import bisect_memory, lab_options, options, writing
from kvmharness.cli.errors import UsageError
from kvmharness.judging import bisection
from kvmharness.judging.bisection import SKIP, BisectAnswer
from kvmharness.judging.session import Session, settle
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.kvm import KvmError, KvmUnavailableError
from kvmharness.lab import build, cache, kernels, runs
from kvmharness.lab.build import user_tree, whole_kernel
from kvmharness.lab.build.make import CompileError
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel, stored
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import check_emulator
from kvmharness.printable import printable
from kvmharness.scenarios import Scenario

NAME = "bisect-step"
_STATUSES = """\
exit status:
  0    good: nothing failed, and everything was judged
  1    bad: a scenario failed as at the bad end of the search
  125  skip: the tree does not build or boot, could not be judged, or fails otherwise
  128  abort the bisect: wrong usage, or no step could be built or played
"""
_OF_LAB = ("tree", "kernel", "machine", "offline")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        NAME,
        help="one step of `git bisect run`: build, boot and judge a kernel tree",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tree", metavar="DIR", type=Path, help="the tree to judge (default: the current folder)"
    )
    parser.add_argument(
        "--kernel",
        metavar="KERNEL",
        help="build only KVM's modules from the tree, for this kernel: debian:VERSION or a built tree "
        "(default: build the whole kernel)",
    )
    parser.add_argument("--host", action="store_true", help="judge the running kernel; build nothing")
    options.add_on(parser)
    parser.add_argument(
        "--machine",
        metavar="NAME",
        help="the emulated machine (default: amd; see `kvmharness list machines`)",
    )
    options.add_what_to_play(parser)
    options.add_hang_after(parser)
    options.add_judging(parser)
    lab_options.add_offline(parser)
    parser.add_argument(
        "--failure",
        metavar="FILE",
        type=Path,
        help="keep in FILE which failure makes a kernel bad (default in a git bisect: in git's folder)",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="the search is for the commit that mended it, as scripts/bisect-fix",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge one step: a line that says what it is and why, and git's exit status for it."""
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    expectation = options.expectation(arguments)
    if arguments.on and not arguments.host:
        raise UsageError("--on goes with --host: a box judges the kernel that it runs")
    if arguments.host:
        given = [name for name in _OF_LAB if getattr(arguments, name)]
        if given:
            raise UsageError(f"--host judges the running kernel and cannot be combined with --{given[0]}")
        found = _of_host(arguments, scenarios, expectation)
    else:
        found = _of_tree(arguments, scenarios, expectation)
    print(printable(found.line), flush=True)
    return found.status


def _of_host(
    arguments: argparse.Namespace, scenarios: Sequence[Scenario], expectation: Expectation
) -> BisectAnswer:
    memory, box = bisect_memory.recall(arguments, Path()), arguments.on
    try:
        outcome = settle(scenarios, box.play if box else host.play, expectation, confirm=True)
    except (KvmUnavailableError, KvmError) as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        # Its modules did not load, perhaps.
        return BisectAnswer(SKIP, str(error) if box else f"{os.uname().release}: {error}")
    _show(outcome.notes)
    found = _answer(outcome.results, outcome.sessions, expectation, _by_name(arguments))
    return memory.judged(found, outcome.results, by_name=_by_name(arguments)) if memory else found


def _by_name(arguments: argparse.Namespace) -> bool:
    """Whether scenarios were asked for by name."""
    return bool(arguments.scenario or arguments.scenario_file)


def _of_tree(
    arguments: argparse.Namespace, scenarios: Sequence[Scenario], expectation: Expectation
) -> BisectAnswer:
    machine = options.pick_one(arguments.machine or "amd", MACHINES, "machine")
    machine = replace(machine, hang_after_s=arguments.hang_after)
    check_emulator(machine)
    tree = (arguments.tree or Path()).resolve()
    builder = _prepared(tree, arguments)
    memory = bisect_memory.recall(arguments, tree)
    by_name = _by_name(arguments)

    # What was wrong so far would be so at every step, and was raised. From here on it is this step's.
    def judged(build_it: Callable[[], Kernel]) -> tuple[BisectAnswer, list[Result], str]:
        """The answer for a kernel, the results, and a hash of its modules."""
        try:
            kernel = build_it()
            # A whole kernel is judged once: its snapshot would be of no use to any other step.
            on = machine if kernel.is_built else machine.without_snapshots
            played = runs.play_on(kernel, on, scenarios, expectation)
        except LabError as error:
            if any(cache.is_full(each) for each in (cache.root(), tree)):
                raise
            for line in error.details if isinstance(error, CompileError) else ():
                writing.complain(line)
            return BisectAnswer(SKIP, str(error)), [], ""
        _show(played.notes)
        # A kernel that crashes has another fault than the one that is looked for, most likely.
        results = [
            replace(each, verdict=Verdict.LOST) if each.scenario in played.crashed else each
            for each in played.results
        ]
        return _answer(results, played.sessions, expectation, by_name), results, stored.modules_hash(kernel)

    if memory and builder.of_sources and (end := memory.end_to_judge):
        of_end = partial(builder.of_sources, memory.sources(end))
        found, results, modules = judged(of_end)
        writing.complain(f"kvmharness: at the bad end, {end[:12]}: {found.line}")
        memory.note_end(found, results, modules, by_name=by_name)
    found, results, modules = judged(builder.of_tree)
    found = memory.judged(found, results, by_name=by_name) if memory else found
    if memory and builder.of_sources:
        found = memory.doubted(found, modules, builder.of_sources)
    return found


def _show(notes: Sequence[str]) -> None:
    for note in notes:
        writing.complain(f"  | {note}")


def _answer(
    results: Sequence[Result], sessions: Mapping[str, Session], expectation: Expectation, by_name: bool
) -> BisectAnswer:
    ignores = [bisection.ignored_writes(each.probe, expectation) for each in sessions.values()]
    return bisection.answer(results, by_name, next(filter(None, ignores), ""))


@dataclass(frozen=True, slots=True)
class _Builder:
    """What builds the kernel of the tree, and one of other sources of KVM where it can."""

    of_tree: Callable[[], Kernel]
    of_sources: Callable[[dict[str, str]], Kernel] | None = None


def _prepared(tree: Path, arguments: argparse.Namespace) -> _Builder:
    """What builds the kernel of a tree. LabError or UsageError where nothing could be built at any step."""
    sources = user_tree.of_kvm(tree)
    if arguments.kernel:
        on = build.ground(arguments.kernel, arguments.offline)

        def of_sources(these: dict[str, str]) -> Kernel:
            return build.build_sources(on, these, _name(tree)).kernel

        return _Builder(lambda: of_sources(sources), of_sources)
    if not user_tree.is_whole(tree):
        raise UsageError(
            f"{tree} holds only KVM: name the kernel to build it for, such as --kernel debian:6.1"
        )
    whole_kernel.check(tree)
    return _Builder(lambda: kernels.find(str(whole_kernel.build(tree))))


def _name(tree: Path) -> str:
    """What a tree's kernel is called in the cache, where the next step takes its place."""
    return f"bisect-{hashlib.sha256(str(tree).encode()).hexdigest()[:8]}"
