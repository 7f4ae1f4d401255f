# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness explore: make scripts nobody thought of, play them, keep what is wrong as scenario files."""

import argparse
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kvmharness.cli import lab_options, options, writing
from kvmharness.cli.errors import (
    FAILED,
    INTERRUPTED,
    MACHINE_LOST,
    NOTHING_FAILED,
    NOTHING_JUDGED,
    UsageError,
)
from kvmharness.explore import corpus
from kvmharness.explore.campaign import Campaign, Settings
from kvmharness.explore.corpus import CorpusError
from kvmharness.explore.findings import Finding
from kvmharness.explore.ways import InLab, OnHost
from kvmharness.judging.session import LostError, Session
from kvmharness.lab import kernels
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.play import MOST_TOGETHER
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import OPERATIONS, Script

_LOG = logging.getLogger(__name__)

_STATUSES = """\
exit status:
  0  nothing was found
  1  something was found
  2  wrong usage or bad input; one line on stderr says what
  3  a machine was lost
  4  nothing could be judged
"""
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
# How many scripts one boot plays: the first few soon, then as many as one machine takes, which costs least.
_FIRST_BATCH, _BATCH = 40, MOST_TOGETHER
# The part of the time of --for that is for exploring.
_EXPLORING = 0.85
_FINDINGS = Path("kvmharness-findings")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "explore",
        help="look for what no scenario tests: play made-up scripts, keep and shrink what is wrong",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kernel", nargs="*", metavar="KERNEL", help="a kernel, named as for `lab run`")
    parser.add_argument("--host", action="store_true", help="explore the kernel that runs here")
    parser.add_argument(
        "--machine",
        metavar="NAME",
        help="the emulated machine (default: amd; see `kvmharness list machines`)",
    )
    parser.add_argument(
        "--against", metavar="KERNEL", help="report where this kernel does something else; ask no policy"
    )
    parser.add_argument(
        "--for",
        dest="time",
        type=_seconds,
        metavar="TIME",
        help="for how long, as in 90s, 10m or 2h (default: 10m)",
    )
    parser.add_argument("--scripts", type=_number, metavar="N", help="play N scripts instead")
    parser.add_argument(
        "--seed", type=_number, default=0, metavar="N", help="other scripts for another N (default: 0)"
    )
    parser.add_argument(
        "--corpus",
        metavar="DIR",
        type=Path,
        help="begin with the scripts in DIR, and keep new ones and findings there (default: keep findings in "
        f"{_FINDINGS})",
    )
    parser.add_argument(
        "--recording",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="begin with the script of this recording of a VMM, too (can be repeated)",
    )
    parser.add_argument("--unguided", action="store_true", help=argparse.SUPPRESS)  # for measurements
    parser.add_argument("--offline", action="store_true", help="use only the kernels in the cache")
    lab_options.add_executor(parser)
    options.add_judging(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the text to FILE instead of stdout"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explore each kernel in turn; report what was found, also after a Ctrl-C."""
    _check(arguments)
    expectation = options.expectation(arguments)
    writing.check_places(arguments.output, arguments.corpus)
    kept = [*_corpus(arguments.corpus), *recorded(arguments.recording)]
    ways = _ways(arguments)
    against = (
        _in_lab(arguments.against, ways[0].machine, arguments)
        if (arguments.against and isinstance(ways[0], InLab))
        else None
    )
    seconds = arguments.time or (None if arguments.scripts else 600.0)
    explored: list[tuple[InLab | OnHost, Campaign]] = []
    interrupted, lost = False, ""
    for way in ways:
        settings = Settings(
            way.expectation(expectation),
            seed=arguments.seed,
            real_time=way.real_time,
            most_wait_ns=way.most_wait_ns,
            cpus=way.cpus,
            least_khz=way.least_khz,
            guided=not arguments.unguided,
            names=(way.spec, against.spec if against else ""),
        )
        try:
            campaign = Campaign(
                way.play, settings, against=against.play if against else None, crashed=way.crashed, kept=kept
            )
            explored.append((way, campaign))
            each_s = seconds / len(ways) if seconds else None
            _explore(
                way,
                campaign,
                _Budget(each_s, arguments.scripts),
                way.executor.jobs if isinstance(way, InLab) else 1,
                partial(_keep_findings, arguments, way, campaign),
            )
        except KeyboardInterrupt:
            interrupted = True
            break
        except LostError as error:
            lost = f"{way.spec} on {way.machine_name}: the machine was lost: {error}"
            writing.complain(f"kvmharness: {lost}")
        finally:
            way.stop()
            if against:
                against.stop()
    _keep(arguments, explored)
    writing.write_text(_report(arguments, explored), arguments.output)
    return _status(explored, interrupted=interrupted, lost=bool(lost))


class _Budget:
    """How much may still be played: for so many seconds, or so many scripts (None: any)."""

    def __init__(self, seconds: float | None, scripts: int | None) -> None:
        # What is left after exploring is for making the known breaks small.
        self._end = None if seconds is None else time.monotonic() + seconds
        self._explores_until = None if seconds is None else time.monotonic() + seconds * _EXPLORING
        self._scripts = scripts
        self._given = 0

    def next_batch(self) -> int:
        """How many scripts to play next; 0 when it is used up."""
        if self._explores_until is not None and time.monotonic() >= self._explores_until:
            return 0
        count = _FIRST_BATCH if not self._given else _BATCH
        if self._scripts is not None:
            count = min(count, self._scripts - self._given)
        self._given += count
        return count

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() >= self._end

    @property
    def left(self) -> str:
        """What is left of it, in words."""
        if self._end is None:
            return f"{(self._scripts or 0) - self._given} scripts to come"
        seconds = max(0, int(self._end - time.monotonic()))
        return f"{seconds // 60}:{seconds % 60:02} left"


def _explore(
    way: InLab | OnHost, campaign: Campaign, budget: _Budget, jobs: int, keep: Callable[[], None]
) -> None:
    """Play batches, `jobs` at a time, and make the next ones meanwhile. `keep` after each what was found."""
    begin = time.monotonic()
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        for scenarios, future in _batches(campaign, budget, pool, jobs):
            session, other = future.result()
            campaign.judge(scenarios, session, other)
            keep()
            _show_progress(way, campaign, budget, time.monotonic() - begin)
        campaign.finish(lambda: budget.is_over)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_Batch = tuple[Sequence[Scenario], "Future[tuple[Session, Session | None]]"]


def _batches(campaign: Campaign, budget: _Budget, pool: ThreadPoolExecutor, jobs: int) -> Iterator[_Batch]:
    """Each batch with what will have been played of it, as many of them ahead as there are jobs."""
    ahead: list[_Batch] = []
    while True:
        while len(ahead) < jobs and (count := budget.next_batch()):
            scenarios = campaign.scenarios(count)
            ahead.append((scenarios, pool.submit(campaign.play, scenarios)))
        if not ahead:
            return
        yield ahead.pop(0)


def _show_progress(way: InLab | OnHost, campaign: Campaign, budget: _Budget, seconds: float) -> None:
    tally = campaign.tally
    _LOG.info(
        "%s on %s: %d scripts (%.1f a second), %d steps, coverage %d, %d findings, %d known breaks; %s",
        *(way.spec, way.machine_name, tally.scripts, tally.scripts / max(seconds, 0.1), tally.steps),
        *(len(campaign.generator.coverage), len(campaign.findings), len(campaign.known_breaks), budget.left),
    )


# What was asked for


def _check(arguments: argparse.Namespace) -> None:
    if arguments.host:
        given = [
            name for name in ("kernel", "machine", "against", "jobs", "cluster") if getattr(arguments, name)
        ]
        if given:
            raise UsageError(f"--host explores the kernel that runs here: it goes without {given[0]}")
    elif not arguments.kernel:
        raise UsageError("explore: name a kernel, as in debian:6.12, or --host")
    if arguments.against and len(arguments.kernel) > 1:
        raise UsageError("--against holds one kernel against another: name one KERNEL")
    if arguments.time and arguments.scripts:
        raise UsageError("--for and --scripts exclude each other")


def _ways(arguments: argparse.Namespace) -> list[InLab | OnHost]:
    if arguments.host:
        return [OnHost()]
    machine = options.pick_one(arguments.machine or "amd", MACHINES, "machine")
    lab_options.check_emulators([machine], arguments)
    return [_in_lab(spec, machine, arguments) for spec in dict.fromkeys(arguments.kernel)]


def _in_lab(spec: str, machine: Machine, arguments: argparse.Namespace) -> InLab:
    kernel = kernels.find(spec, offline=arguments.offline)
    return InLab(kernel, machine, lab_options.executor(arguments))


def _corpus(folder: Path | None) -> list[Script]:
    try:
        return [*corpus.load(folder)] if folder else []
    except CorpusError as error:
        raise UsageError(str(error)) from None


def recorded(files: Sequence[Path]) -> list[Script]:
    """The scripts of recordings (and of scenario files, which the same option reads)."""
    found = options.known_scenarios(files)
    return [each.script for name, each in found.items() if name not in SCENARIOS]


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,7})([smh]?)", text, re.ASCII)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time, as in 90s, 10m or 2h")
    return float(int(found[1]) * _UNITS[found[2]])


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number below a thousand million")
    return int(text)


# What is kept and said


def _keep(arguments: argparse.Namespace, explored: Sequence[tuple[InLab | OnHost, Campaign]]) -> None:
    """Write what was found, and the corpus."""
    for way, campaign in explored:
        _keep_findings(arguments, way, campaign)
    folder = arguments.corpus
    if folder and explored:
        with _writing_to(folder):
            corpus.save(folder, [each for _, campaign in explored for each in campaign.generator.kept])


def _keep_findings(arguments: argparse.Namespace, way: InLab | OnHost, campaign: Campaign) -> None:
    """Write what was found so far, each that is not written yet."""
    folder = arguments.corpus or _FINDINGS
    with _writing_to(folder):
        for finding in (*campaign.findings, *campaign.known_breaks):
            if not corpus.path_of(folder, finding).exists():
                corpus.keep(folder, finding, _source(arguments, way))


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """What cannot be written is said, once, and costs nothing else."""
    try:
        yield
    except OSError as error:
        if folder not in writing.unwritten:
            writing.unwritten.append(folder)
            writing.complain(f"kvmharness: cannot write to {folder}: {error.strerror}")


def _source(arguments: argparse.Namespace, way: InLab | OnHost) -> str:
    return f"kvmharness explore of {way.spec} on {way.machine_name}, --seed {arguments.seed}"


def _report(arguments: argparse.Namespace, explored: Sequence[tuple[InLab | OnHost, Campaign]]) -> str:
    lines: list[str] = []
    for way, campaign in explored:
        tally = campaign.tally
        found, known = campaign.findings, campaign.known_breaks
        lines.append(
            f"{way.spec} on {way.machine_name}: {len(found)} findings in {tally.scripts} scripts, "
            f"{tally.steps} steps, {tally.playing_s:.0f} s of machine time"
        )
        never = ", ".join(sorted(OPERATIONS.keys() - tally.operations.keys()))
        lines.append(
            f"  coverage {len(campaign.generator.coverage)}; operations never played: {never or 'none'}"
        )
        if tally.doubtful:
            lines.append(f"  of {tally.doubtful} scripts the model can tell nothing")
        if tally.once:
            lines.append(f"  {tally.once} times something was seen once and did not come again")
        for finding in found:
            lines += ["", *(f"  {line}" for line in finding.lines), *_again(arguments, way, finding)]
        if known:
            lines += ["", f"  Known: what {arguments.expect} itself breaks, as the model predicts"]
        for finding in known:
            times = tally.known[finding.symptom.what]
            lines.append(
                f"    {finding.symptom.what}: {finding.symptom.lines[0]} ({times} scripts); "
                f"{len(finding.script)} steps in {finding.name}.json"
            )
        lines.append("")
    return "\n".join(lines)


def _again(arguments: argparse.Namespace, way: InLab | OnHost, finding: Finding) -> list[str]:
    """Where a finding is kept, and the command that plays it again."""
    path = corpus.path_of(arguments.corpus or _FINDINGS, finding)
    options_given = f"--expect {arguments.expect}" + (
        " --judge contract" if arguments.judge == "contract" else ""
    )
    if arguments.policy_file:
        options_given += f" --policy-file {arguments.policy_file}"
    command = f"run --scenario-file {path} {options_given}"
    if arguments.against:
        command = (
            f"lab diff {way.spec} {arguments.against} --machine {way.machine_name} --scenario-file {path}"
        )
    elif isinstance(way, InLab):
        command = f"lab run {way.spec} --machine {way.machine_name} --scenario-file {path} {options_given}"
    effort = finding.effort
    return [
        f"    from {effort.steps} steps, {effort.tried} scripts tried in {effort.shrinking_s:.0f} s; "
        f"found after {effort.until_found_s:.0f} s of machine time",
        f"    again: kvmharness {command}",
    ]


def _status(explored: Sequence[tuple[InLab | OnHost, Campaign]], *, interrupted: bool, lost: bool) -> int:
    if any(campaign.findings for _, campaign in explored):
        return FAILED
    if interrupted:
        return INTERRUPTED
    if lost:
        return MACHINE_LOST
    judged = sum(campaign.tally.scripts - campaign.tally.doubtful for _, campaign in explored)
    return NOTHING_FAILED if judged else NOTHING_JUDGED
