# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions as they are saved: with them a judge comes to the verdict of the run, anywhere and later.

A file is for one scenario. It holds the sessions of the run in the order in which they were played: of each
the probe, and the scenario's trace if it was played in that session. Where no two runs are the same the
verdict depends on all of them.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kvmharness.judging.probe import HOST, PROBES
from kvmharness.judging.session import Session, SessionResult, judged
from kvmharness.judging.verdict import Expectation
from kvmharness.scenarios import Scenario
from kvmharness.trace import HOSTS_OWN as _HOSTS_OWN
from kvmharness.trace import MAX_LINE, Place, Trace, TraceError, from_lines, to_lines

HOSTS_OWN = _HOSTS_OWN

_LONGEST = 100  # of a kernel's part of a file's name; file systems take 255 bytes
# What a kernel is called by a name of ours, and not by a path.
_NAMED = re.compile("host|[a-z]+:[a-z0-9][a-z0-9.+-]*")


def file_name(kernel: str, machine: str, scenario: str) -> str:
    """The name of a scenario's file: debian-6.1.amd.young-restore.jsonl, or host.young-restore.jsonl.

    It holds letters, digits, and . + - _ alone, so every file system and artifact store takes it, also those
    that take a and A for the same. A kernel that is not called debian:6.1, built:a-name or host, but by a
    path, has a hash of its name after what is left of that. So no two kernels share a name.
    """
    called = kernel.replace(":", "-", 1)
    if not _NAMED.fullmatch(kernel) or len(kernel) > _LONGEST:
        digest = hashlib.sha256(kernel.encode(errors="surrogatepass")).hexdigest()[:8]
        safe = re.sub("[^A-Za-z0-9.+_-]+", "-", kernel)[-_LONGEST:].strip("-.+")
        called = f"{safe or 'kernel'}-{digest}"
    # The = of a module's parameter (kvm.tsc_tolerance_ppm=0) is the first sign there that is not plain.
    where = called if machine == HOSTS_OWN else f"{called}.{re.sub('[^A-Za-z0-9.+_-]', '-', machine)}"
    return f"{where}.{scenario}.jsonl"


def lines(scenario: str, sessions: Sequence[Session]) -> Iterator[str]:
    """The lines of a scenario's file, without line ends."""
    for session in sessions:
        traces = [*session.probe.traces]
        if scenario in session.traces:
            traces.append(session.traces[scenario])
        for trace in traces:
            yield from to_lines(trace)


def read(path: Path) -> list[Session]:
    """The sessions in a file. OSError; TraceError where it does not hold that."""
    try:
        with path.open(encoding="ascii") as file:
            return sessions_of(list(from_lines(iter(lambda: file.readline(MAX_LINE + 1), ""))))
    except UnicodeDecodeError:
        raise TraceError("not a trace: it has bytes that are not ASCII") from None


def sessions_of(traces: Iterable[Trace]) -> list[Session]:
    """The sessions that the traces of a file are of. TraceError where no player can have left them so."""
    groups: list[list[Trace]] = []
    for trace in traces:
        names = [each.scenario for each in groups[-1]] if groups else []
        if trace.scenario in PROBES and (not names or trace.scenario in names or names[-1] not in PROBES):
            groups.append([])
        if not groups:
            break
        groups[-1].append(trace)
    if not groups:
        raise TraceError("not a saved trace: it does not begin with a probe")
    sessions = [_session(group) for group in groups]
    if not any(session.traces for session in sessions):
        raise TraceError("not a saved trace: there is none of a scenario after the probe")
    if len({frozenset(each.scenario for each in session.probe.traces) for session in sessions}) > 1:
        raise TraceError("its sessions do not begin with the same probe")
    if len({(_without_session(each.place), each.release) for group in groups for each in group}) > 1:
        raise TraceError("its traces are of several kernels or machines")
    return sessions


def _session(traces: Sequence[Trace]) -> Session:
    names = [each.scenario for each in traces]
    if HOST not in names:
        raise TraceError(f"a session without the trace of {HOST!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TraceError(f"scenario {twice} twice in one session")
    if len({each.place for each in traces}) > 1:
        raise TraceError("its traces are of several sessions")
    return Session.of(traces)


def _without_session(place: Place | None) -> object:
    return place and replace(place, session="")


@dataclass(frozen=True, slots=True)
class SavedRun:
    """The sessions of one run, as its files tell them together."""

    sessions: tuple[Session, ...]

    @property
    def place(self) -> Place | None:
        """Where it was played; None where nothing says so."""
        return self.sessions[0].probe.traces[0].place

    @property
    def release(self) -> str:
        """The kernel's release."""
        return self.sessions[0].probe.release

    @property
    def scenarios(self) -> list[str]:
        """The names of those that were played."""
        return list(dict.fromkeys(name for session in self.sessions for name in session.traces))

    def expectation(self, of: Expectation) -> Expectation:
        """What is to be expected where it was played: on an unknown machine TSCs may be protected."""
        return replace(of, may_be_protected=self.place is None or self.place.may_protect_tscs)

    def judged(self, scenarios: Sequence[Scenario], expectation: Expectation) -> SessionResult:
        """The verdicts. Traces of schema 1 are of one session, so a failure that came once is one."""
        confirm = self.place is not None and not self.place.counts_instructions
        return judged(self.sessions, scenarios, self.expectation(expectation), confirm=confirm)


def runs_of(files: Iterable[Sequence[Session]]) -> list[SavedRun]:
    """The runs that these files are of, each given as its sessions: files of one run begin with one probe."""
    runs: list[list[Session]] = []
    for sessions in files:
        run = next((each for each in runs if _is_of(each, sessions)), None)
        if run is None:
            runs.append(list(sessions))
            continue
        for place, session in enumerate(sessions):
            if place < len(run):
                run[place].traces.update(session.traces)
            else:
                run.append(session)
    return [SavedRun(tuple(run)) for run in runs]


def _is_of(run: Sequence[Session], sessions: Sequence[Session]) -> bool:
    """Whether a file's sessions are those of a run, as far as both go, and its scenarios new to that."""
    pairs = list(zip(run, sessions, strict=False))
    return all(mine.probe == its.probe and not mine.traces.keys() & its.traces for mine, its in pairs)
