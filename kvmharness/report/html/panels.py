# SPDX-License-Identifier: GPL-2.0-or-later
"""A scenario on one kernel, as the page shows it: headline, picture, where the TSC went, and the steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmharness.judging.capabilities import host_facts
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.model.arithmetic import duration
from kvmharness.model.policies import POLICIES
from kvmharness.printable import printable
from kvmharness.report import failures
from kvmharness.report.html import timeline
from kvmharness.report.html.drawing import draw
from kvmharness.report.html.timeline import Predicted, Timeline, Write
from kvmharness.report.kernel import KernelReport
from kvmharness.trace import Trace

AS_WRITTEN = "as written"
_NS = 1_000_000  # kHz of a clock that counts ns


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a TSC went: who says so, the TSC in words, how far that is from what was written, and its place
    between the lowest and the highest of them, in percent."""

    who: str
    kind: str
    tsc: str
    apart: str
    place: float


@dataclass(frozen=True, slots=True)
class Step:
    """A step in words, what was seen there, and whether the verdict rests on it."""

    words: str
    seen: str
    is_meant: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """A scenario on one kernel. `goals` are for the write that counts, `policies` the letters' policies."""

    title: str
    verdict: str
    headline: str
    svg: str
    goals: tuple[Goal, ...]
    policies: tuple[tuple[str, str, bool], ...]
    pieces: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]


def panel(kernel: KernelReport, result: Result) -> Panel:
    """What the page shows of a result; without a picture where no trace is there."""
    session = kernel.sessions.get(result.scenario)
    trace = session.traces.get(result.scenario) if session else None
    pieces = tuple((label, printable(text)) for label, text in _pieces(kernel, result) if text)
    if session is None or trace is None or not trace.events:
        return Panel(kernel.title, result.verdict.value, _reason(result), "", (), (), pieces, ())
    way, predictions = _ways(session, trace)
    letters = [(chr(ord("A") + place), each) for place, each in enumerate(predictions)]
    write = _write_that_counts(result, trace, way)
    goals = _goals(kernel.kernel, write, way, letters) if write else ()
    headline = _headline(write, goals, result) or _reason(result)
    others = [each for each in letters if not way.is_like(each[1].timeline)]
    return Panel(
        *(kernel.title, result.verdict.value, headline),
        draw(way, others, f"{result.scenario} on {kernel.title}: {headline}"),
        goals,
        tuple((letter, ", ".join(each.policies), way.is_like(each.timeline)) for letter, each in letters),
        pieces,
        _steps(trace, result),
    )


def _ways(session: Session, trace: Trace) -> tuple[Timeline, list[Predicted]]:
    host = host_facts(session.probe)
    policies = [each for each in POLICIES.values() if each.honours_writes]
    return timeline.of(trace, host), timeline.predicted(trace, policies, host)


def _pieces(kernel: KernelReport, result: Result) -> Sequence[tuple[str, str]]:
    if result.verdict is Verdict.FAIL:
        return failures.pieces(result, kernel.expect)
    if result.verdict is Verdict.PASS:
        return [("contract kept", result.contract if result.kept else "")]
    return [("reason", result.reason)]


def _reason(result: Result) -> str:
    return printable(result.finding or result.reason or result.contract)


def _write_that_counts(result: Result, trace: Trace, way: Timeline) -> Write | None:
    """The last write before the step that the verdict rests on, of the vCPU that the step is about."""
    last = result.step or len(trace.events)
    numbers = trace.events[last - 1].operation.vcpu_numbers if last <= len(trace.events) else ()
    earlier = [each for each in way.writes if each.step <= last]
    own = [each for each in earlier if numbers == (each.vcpu,)]
    return next(reversed(own or earlier), None)


def _goals(
    kernel: str, write: Write, way: Timeline, letters: Sequence[tuple[str, Predicted]]
) -> tuple[Goal, ...]:
    """What was written, where the kernel took the TSC, and where each policy would have taken it."""
    moment = way.moments[write.step - 1]
    found = [("written", "written", write.value + moment - write.moment)]
    line = way.line(write.vcpu)
    if line is None or (seen := line.at(moment)) is None:
        return ()
    found.append((kernel, "seen", seen))
    for letter, each in letters:
        other = each.timeline.line(write.vcpu)
        tsc = other.at(moment) if other else None
        if tsc is not None:
            found.append((letter, "policy", tsc))
    low, high = min(tsc for *_, tsc in found), max(tsc for *_, tsc in found)
    if high - low <= 2 * way.step_ns:
        return ()
    written = found[0][2]
    return tuple(
        Goal(who, kind, _spelled(tsc), _apart(tsc - written, way.step_ns), 100 * (tsc - low) / (high - low))
        for who, kind, tsc in found
    )


def _apart(ns: float, within: float) -> str:
    if abs(ns) <= 2 * within:
        return AS_WRITTEN
    return f"{_spelled(abs(ns))} {'above' if ns > 0 else 'below'}"


def _headline(write: Write | None, goals: Sequence[Goal], result: Result) -> str:
    """Where the TSC went that was written, in one sentence; "" where that is not what is wrong."""
    if write is None or not goals:
        return ""
    written, seen, *_ = goals
    if seen.apart == AS_WRITTEN and result.kept is False:
        return ""
    apart = seen.apart if seen.apart == AS_WRITTEN else f"{seen.apart} what was written"
    return f"Step {write.step} set vCPU {write.vcpu} to {written.tsc}; its TSC went to {seen.tsc}: {apart}."


def _spelled(ns: float) -> str:
    return f"{'-' if ns < 0 else ''}{duration(round(ns), _NS)}"


def _steps(trace: Trace, result: Result) -> tuple[Step, ...]:
    return tuple(
        Step(
            event.operation.in_words(),
            event.end or ", ".join(event.operation.values_in_words(event.values)),
            number == result.step,
        )
        for number, event in enumerate(trace.events, 1)
    )
