# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims as checks in C (pieces/offsets.c, pieces/clocks.c): expressions of a `enum result`."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvmharness.contract import (
    Claim,
    ClockClaim,
    EmptyPageClaim,
    EndClaim,
    ForwardClaim,
    HostTimeClaim,
    LineClaim,
    NoStealClaim,
    OffsetClaim,
    PageClaim,
    RateClaim,
    ReadsClaim,
    RealtimeClaim,
    ReferenceClaim,
    RenewedClaim,
    RunnableClaim,
    RunstateClaim,
    RunstateGrowthClaim,
    SameClaim,
    ScaleClaim,
    StealClaim,
    TimeClaim,
    TimerClaim,
    WallClockClaim,
)
from kvmharness.contract.answer import same_place
from kvmharness.reproduce.names import CannotExpressError, duration, of_fields, runstate, text
from kvmharness.script import Operation, Script

Check = tuple[str, str]  # a text, and the expression that checks it

_MOST_SEEN, _MOST_DUE = 47, 7  # struct offset_claim
_MOST_GROWN = 15  # struct steal_claim, runstate_claim


@dataclass(frozen=True, slots=True, kw_only=True)
class NearlyClaim(OffsetClaim):
    """An OffsetClaim that tolerates so many ns."""

    slack_ns: int


class Checks:
    """The checks of one script's claims. `variables` are the names in C of the steps with these labels."""

    def __init__(self, script: Script, variables: dict[str, str]) -> None:
        self._script = script
        self._variables = variables
        self._of_label = {step.label: (place, step) for place, step in enumerate(script) if step.label}

    def of(self, claim: Claim) -> list[Check]:
        """A claim's checks. CannotExpressError where C has none."""
        make = _CHECKS.get(type(claim))
        if make is None:
            raise CannotExpressError(f"a test in C cannot check yet: {claim.text}")
        return make(self, claim)

    def labels(self, claim: Claim) -> tuple[str, ...]:
        """The labels of the steps that its checks name."""
        also = [step.label for step in self._entries(claim)] if isinstance(claim, RateClaim) else []
        if isinstance(claim, RateClaim):
            also.append(self._first_created.label)
        if isinstance(claim, RunstateClaim) and claim.is_first:
            also += [step.label for each in claim.seen for step in self._runstates_before(each)]
        if isinstance(claim, ReferenceClaim):
            also += [
                at for each in claim.seen if self._page_at(each) >= 0 and (at := self._entry_before(each))
            ]
        if isinstance(claim, LineClaim):
            also += [label for each in claim.seen if (label := self._offset_before(claim, each))]
        return (*claim.labels, *also)

    def _pointer(self, label: str) -> str:
        return f"&{self._variables[label]}"

    def _pointers(self, labels: Sequence[str]) -> str:
        return f"{{ {', '.join(map(self._pointer, labels))} }}"

    @property
    def _first_created(self) -> Operation:
        return next(step for step in self._script if step.creates_vcpu)

    @property
    def _khz(self) -> str:
        """The rate that KVM takes the host's TSC for."""
        return f"vcpus[{self._first_created.vcpu_numbers[0]}].first_khz"

    def _offset(self, claim: OffsetClaim) -> list[Check]:
        _check_few(claim, (claim.seen, _MOST_SEEN), (claim.expected, _MOST_DUE))
        fields = [f".due = {self._pointers(claim.expected)}", f".seen = {self._pointers(claim.seen)}"]
        if claim.instead:
            fields.append(f".instead = {self._pointer(claim.instead)}")
            if claim.otherwise:
                fields.append(f".otherwise = {text(claim.otherwise)}")
        if isinstance(claim, NearlyClaim):
            fields.append(
                f".slack = cycles({self._first_created.vcpu_numbers[0]}, {duration(claim.slack_ns)})"
            )
        if claim.together:
            first, last = map(self._pointer, claim.together)
            fields.append(f".first = {first}, .last = {last}, .within_ns = {duration(claim.within_ns)}")
        return [(claim.text, of_fields("same_offset", "offset_claim", fields))]

    def _same(self, claim: SameClaim) -> list[Check]:
        seen, expected = (self._of_label[label][1] for label in (claim.seen, claim.expected))
        steps = f"{self._pointer(claim.seen)}, {self._pointer(claim.expected)}"
        return [(claim.text, f"same_value({steps}, {same_place(seen, expected)})")]

    def _end(self, claim: EndClaim) -> list[Check]:
        numbers = []
        for name in claim.errors:
            if name and not hasattr(errno, name):
                raise CannotExpressError(f"{name} is no errno that C has a name for")
            numbers.append(name or "0")
        errors = ", ".join([*numbers, "-1"])
        return [(claim.text, f"ends_with({self._pointer(claim.seen)}, (int[]) {{ {errors} }})")]

    def _clock(self, claim: ClockClaim) -> list[Check]:
        return [(claim.text, f"clock_is_stable({self._pointer(claim.seen)}, {str(claim.stable).lower()})")]

    def _host_time(self, claim: HostTimeClaim) -> list[Check]:
        return [(claim.text, f"says_host_time({self._pointer(claim.seen)})")]

    def _reads(self, claim: ReadsClaim) -> list[Check]:
        return [(claim.text, f"reads_something({self._pointer(claim.seen)})")]

    def _page(self, claim: PageClaim) -> list[Check]:
        asked = (("PAGE_STABLE", claim.stable), ("PAGE_STOPPED", claim.stopped))
        flags = " | ".join(name for name, wanted in asked if wanted) or "0"
        others = " | ".join(name for name, wanted in asked if wanted is False) or "0"
        return [(claim.text, f"page_says({self._pointer(claim.seen)}, {flags}, {others})")]

    def _forward(self, claim: ForwardClaim) -> list[Check]:
        steps = ", ".join([*map(self._pointer, claim.seen), "NULL"])
        return [(claim.text, f"never_backwards((const struct step *[]) {{ {steps} }})")]

    def _steal(self, claim: StealClaim) -> list[Check]:
        _check_few(claim, (claim.seen, _MOST_GROWN), (claim.by, _MOST_DUE))
        fields = [f".due = {self._pointer(claim.expected)}", f".seen = {self._pointers(claim.seen)}"]
        if claim.by:
            fields.append(f".by = {self._pointers(claim.by)}")
        return [(claim.text, of_fields("steal_grows", "steal_claim", fields))]

    def _no_steal(self, claim: NoStealClaim) -> list[Check]:
        due = self._pointer(claim.expected) if claim.expected else "NULL"
        return [(_each(claim, label), f"no_steal({self._pointer(label)}, {due})") for label in claim.seen]

    def _wall_clock(self, claim: WallClockClaim) -> list[Check]:
        steps = ", ".join(map(self._pointer, (claim.seen, claim.by, claim.expected)))
        return [(claim.text, f"wall_clock_is({steps}, {self._khz})")]

    def _runstate(self, claim: RunstateClaim) -> list[Check]:
        return [(_each(claim, label), self._runstate_of(claim, label)) for label in claim.seen]

    def _runstate_of(self, claim: RunstateClaim, label: str) -> str:
        fields = [f".seen = {self._pointer(label)}, .state = {runstate(claim.state)}"]
        clocks = (("after", claim.after), ("before", claim.before))
        if any(clock for _, clock in clocks):
            fields.append(", ".join(f".{name} = {self._pointer(clock)}" for name, clock in clocks if clock))
        if claim.is_first:
            fields.append(".first = true")
            earlier = [step.label for step in self._runstates_before(label)]
            _check_few(claim, (earlier, _MOST_GROWN))
            if earlier:
                fields.append(f".earlier = {self._pointers(earlier)}")
        return of_fields("runstate_is", "runstate_claim", fields)

    def _runstates_before(self, label: str) -> list[Operation]:
        """The steps that read the runstate of the same vCPU before this one."""
        place, last = self._of_label[label]
        own = [step for step in self._script[:place] if step.vcpu_numbers == last.vcpu_numbers]
        return [step for step in own if step.value_names == last.value_names]

    def _growth(self, claim: RunstateGrowthClaim) -> list[Check]:
        states = " | ".join(f"1 << {runstate(state)}" for state in claim.grows) or "0"
        due = self._pointer(claim.expected)
        return [
            (_each(claim, label), f"only_grow({states}, {due}, {self._pointer(label)})")
            for label in claim.seen
        ]

    def _runnable(self, claim: RunnableClaim) -> list[Check]:
        seen, due, first = map(self._pointer, (claim.seen, claim.expected, claim.first))
        fields = [f".seen = {seen}, .due = {due}, .first = {first}"]
        _check_few(claim, (claim.by, _MOST_DUE))
        if claim.by:
            fields.append(f".by = {self._pointers(claim.by)}")
        return [(claim.text, of_fields("was_runnable", "runnable_claim", fields))]

    def _reference(self, claim: ReferenceClaim) -> list[Check]:
        return [(_each(claim, label), self._reference_of(claim, label)) for label in claim.seen]

    def _reference_of(self, claim: ReferenceClaim, label: str) -> str:
        counter, page, due_page = (
            _counter(self._step(label)),
            self._page_at(label),
            self._page_at(claim.expected),
        )
        fields = [
            f".seen = {self._pointer(label)}, .due = {self._pointer(claim.expected)}",
            f".counter = {counter}, .page = {page}, .due_page = {due_page}",
        ]
        if page >= 0 and (at := self._entry_before(label)):
            fields.append(f".at = {self._pointer(at)}")
        if claim.by_page:
            fields.append(".by_page = true")
        return of_fields("is_reference", "reference_claim", fields)

    def _step(self, label: str) -> Operation:
        return self._of_label[label][1]

    def _page_at(self, label: str) -> int:
        """Where among a step's values a TSC page begins; -1 if it reads none."""
        names = self._step(label).value_names
        return names.index("hv_sequence") if "hv_sequence" in names else -1

    def _entry_before(self, label: str) -> str:
        """The label of the last step, up to this one, in which a guest ran; "" if none did."""
        place = self._of_label[label][0]
        entered = [step.label for step in self._script[: place + 1] if step.enters_guest]
        return entered[-1] if entered else ""

    def _renewed(self, claim: RenewedClaim) -> list[Check]:
        steps = [f"{self._pointer(label)}, {self._page_at(label)}" for label in (claim.seen, claim.expected)]
        return [(claim.text, f"is_renewed({', '.join(steps)}, {str(claim.renewed).lower()})")]

    def _empty(self, claim: EmptyPageClaim) -> list[Check]:
        return [(claim.text, f"is_empty({self._pointer(claim.seen)}, {self._page_at(claim.seen)})")]

    def _entries(self, claim: RateClaim) -> list[Operation]:
        """The steps in which the vCPU's guest was entered meanwhile."""
        first, last = self._of_label[claim.first][0], self._of_label[claim.last][0]
        vcpus = set(self._script[last].vcpu_numbers)
        steps = self._script[first : last + 1]
        return [step for step in steps if step.enters_guest and vcpus & set(step.vcpu_numbers)]

    def _rate(self, claim: RateClaim) -> list[Check]:
        fields = [
            f".first = {self._pointer(claim.first)}, .last = {self._pointer(claim.last)}",
            f".khz = {self._pointer(claim.khz)}, .created = {self._pointer(self._first_created.label)}",
        ]
        if claim.instead:
            fields.append(f".instead = {self._pointer(claim.instead)}")
        if claim.stands_since:
            fields.append(f".since = {self._pointer(claim.stands_since)}")
        if entries := [f"took({self._pointer(step.label)})" for step in self._entries(claim)]:
            fields.append(f".entries_ns = {' + '.join(entries)}")
        return [(claim.text, of_fields("counts_at", "rate_claim", fields))]

    def _time(self, claim: TimeClaim) -> list[Check]:
        due = f"{self._pointer(claim.expected)}, {self._is_page(claim.expected)}"
        return [
            (
                _each(claim, label),
                f"goes_on({self._pointer(label)}, {self._is_page(label)}, {due}, {self._khz})",
            )
            for label in claim.seen
        ]

    def _timer(self, claim: TimerClaim) -> list[Check]:
        steps = [("seen", claim.seen), ("due", claim.expected), ("after", claim.after)]
        place = self._step(claim.expected).value_names.index("TSC_DEADLINE")
        fields = [
            ", ".join(f".{name} = {self._pointer(label)}" for name, label in steps if label),
            f".deadline = {place}, .ns = {duration(self._step(claim.seen).waits_ns)}, .khz = {self._khz}",
        ]
        return [(claim.text, of_fields("timer_fires", "timer_claim", fields))]

    def _is_page(self, label: str) -> str:
        names = self._of_label[label][1].value_names
        return "true" if {"version", "page_version"} & {*names} else "false"

    def _realtime(self, claim: RealtimeClaim) -> list[Check]:
        steps = ", ".join(map(self._pointer, (claim.before, claim.by, claim.after)))
        return [(claim.text, f"moves_with_real_time({steps}, {self._khz})")]

    def _scale(self, claim: ScaleClaim) -> list[Check]:
        both = f"{self._pointer(claim.ratio)}, {self._pointer(claim.offset)}"
        return [(_each(claim, label), f"scaled_by({self._pointer(label)}, {both})") for label in claim.seen]

    def _line(self, claim: LineClaim) -> list[Check]:
        return [(_each(claim, label), self._on_line(claim, label)) for label in claim.seen]

    def _on_line(self, claim: LineClaim, label: str) -> str:
        seen, due = self._pointer(label), self._pointer(claim.expected)
        if self._is_page(label) == "true":
            return f"page_on_line({seen}, {due})"
        if offset := self._offset_before(claim, label):
            return f"clock_on_line({seen}, value_of({self._pointer(offset)}, 0), 1, 0, {due})"
        place = self._of_label[label][0]
        (vcpu,) = self._of_label[claim.expected][1].vcpu_numbers
        if any(step.sets_tsc and vcpu in step.vcpu_numbers for step in self._script[place:]):
            raise CannotExpressError(f"a test in C reads no offset there: {claim.text}")
        return f"scaled_clock_on_line({seen}, {vcpu}, {due})"

    def _offset_before(self, claim: LineClaim, label: str) -> str:
        """The label of the step that says the offset of the page's vCPU, for a KVM_GET_CLOCK; "" if none."""
        place = self._of_label[label][0]
        scales = any(step.value_names == ("khz",) and not step.creates_vcpu for step in self._script)
        if scales or self._is_page(label) == "true":
            return ""
        vcpus = self._of_label[claim.expected][1].vcpu_numbers
        own = [step for step in self._script[:place] if step.vcpu_numbers == vcpus]
        said = [step.label for step in own if "offset" in step.value_names]
        return said[-1] if said else ""


def _counter(step: Operation) -> int:
    """Where among a step's values a TSC, the reference counter and the TSC again are; -1 if it reads none."""
    names = step.value_names
    wanted = (("tsc_before", "reference", "tsc_after"), ("TSC", "HV_TIME_REF_COUNT", "TSC"))
    return next((place for place in range(len(names)) if names[place : place + 3] in wanted), -1)


def _check_few(claim: Claim, *steps: tuple[Sequence[str], int]) -> None:
    """CannotExpressError where a claim is about more steps than a test in C has places for."""
    if any(len(labels) > most for labels, most in steps):
        raise CannotExpressError(f"a test in C cannot look at so many steps: {claim.text}")


def _each(claim: Any, label: str) -> str:
    """What a check of one of several steps says."""
    return claim.text if len(claim.seen) == 1 else f"{claim.text}: {label}"


_CHECKS: dict[type[Claim], Callable[[Checks, Any], list[Check]]] = {
    OffsetClaim: Checks._offset,
    NearlyClaim: Checks._offset,
    SameClaim: Checks._same,
    EndClaim: Checks._end,
    ClockClaim: Checks._clock,
    HostTimeClaim: Checks._host_time,
    ReadsClaim: Checks._reads,
    PageClaim: Checks._page,
    ForwardClaim: Checks._forward,
    RateClaim: Checks._rate,
    TimeClaim: Checks._time,
    TimerClaim: Checks._timer,
    RealtimeClaim: Checks._realtime,
    ScaleClaim: Checks._scale,
    LineClaim: Checks._line,
    StealClaim: Checks._steal,
    NoStealClaim: Checks._no_steal,
    WallClockClaim: Checks._wall_clock,
    RunstateClaim: Checks._runstate,
    RunstateGrowthClaim: Checks._growth,
    RunnableClaim: Checks._runnable,
    ReferenceClaim: Checks._reference,
    RenewedClaim: Checks._renewed,
    EmptyPageClaim: Checks._empty,
}
