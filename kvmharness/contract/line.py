# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that a guest's kvmclock stays the same function of its TSC.

Two pages of one vCPU, or of two that have one TSC, tell one time at one TSC. So does KVM_GET_CLOCK, which
reads the host's TSC with the clock. All of this is arithmetic on what was read: no bracket and no reading of
a clock of ours comes into it.
"""

from dataclasses import dataclass

from kvmharness.contract.clock import page_time
from kvmharness.contract.finding import Claim, Finding
from kvmharness.model.interval import signed
from kvmharness.script import PVCLOCK_TSC_STABLE_BIT
from kvmharness.trace import Event, Trace

# Each of two times is rounded down, by less than a ns where KVM shifts and by less than a ns where it
# multiplies (pvclock_scale_delta).
_ROUNDED_NS = 2

# The host's raw clock, from which KVM draws each new line, multiplies by a number of 24 bits
# (clocks_calc_mult_shift): it is off by one part in so many as this at the most.
_RAW_PARTS = 2**24

# Over less time than this a difference is not that of two rates.
_LONG_NS = 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LineClaim(Claim):
    """The time that the steps labelled `seen` report is that of the page read at the step `expected`, at one
    TSC.

    A step reads a kvmclock page (from memory, or by KVM_GET_CLOCK_GUEST), or it is a KVM_GET_CLOCK that reads
    the host's TSC as well. A page is asked at the TSC that its vCPU's guest had read last. Between two steps
    there may be a new masterclock; then the time may move by what the host's raw clock may be off its rate
    since the one before.
    """

    seen: tuple[str, ...]
    expected: str

    def check(self, trace: Trace) -> Finding:
        """Check that both times are the same at the TSC of each of the steps."""
        steps, events = trace.numbers, trace.labelled
        origin = events.get(self.expected)
        if origin is not None and origin.value("version") == 0:
            return self.broken(
                f"step {self.expected!r} read no page: KVM never wrote it", steps[self.expected]
            )
        if origin is None or not _is_reported_stable(origin):
            return self.undecided(f"step {self.expected!r} read no page of a masterclock")
        for label in self.seen:
            if label not in steps:
                return self.undecided(f"step {label!r} was not reached")
            told = _told(trace.events[: steps[label]], origin)
            if told is None:
                return self.undecided(f"step {label!r} reported no time of a masterclock with its TSC")
            tsc, time = told
            seen = events[label]
            between = seen.bracket.ns_after - origin.bracket.ns_before
            gap = signed(time - page_time(origin.values, tsc))
            if abs(gap) > slack(counted(origin, tsc, seen)):
                return self.broken(self._words(label, gap, between), steps[label], in_words(abs(gap)))
        return self.kept()

    def _words(self, label: str, gap: int, between: int) -> str:
        said = f"at one TSC step {label!r} reports a time {in_words(abs(gap))} "
        said += f"{'ahead of' if gap > 0 else 'behind'} step {self.expected!r}"
        if between < _LONG_NS:
            return said
        return f"{said}, {abs(gap) * 1e6 / between:.1f} millionths of the {between / 1e9:.3f} s between them"


def slack(ns: int) -> int:
    """How far (ns) two times may be apart, one of which was counted from the other's for so many ns."""
    return _ROUNDED_NS + abs(ns) // _RAW_PARTS


def counted(page: Event, tsc: int, event: Event) -> int:
    """For how many ns a page's time is counted in cycles until a TSC that was read at a later step.

    It is counted from the masterclock's reading of the host's clocks, which may lie long before the step that
    read the page (vcpu->hv_clock in kvm_guest_time_update()).
    """
    since = signed(page_time(page.values, tsc) - page.values[2])
    return max(abs(since), event.bracket.ns_after - page.bracket.ns_before)


def gap_of_pages(page: Event, tsc: int, before: Event) -> tuple[int, int]:
    """How far (ns) a page's time at a TSC is from an earlier page's, and how far it may be."""
    gap = signed(page_time(page.values, tsc) - page_time(before.values, tsc))
    return gap, slack(counted(before, tsc, page))


def in_words(ns: int) -> str:
    """So many ns, with as many digits as are worth reading."""
    if ns < 1_000:
        return f"{ns} ns"
    return f"{ns / 1e3:.1f} us" if ns < 1_000_000 else f"{ns / 1e6:.3f} ms"


def is_stable(page: Event) -> bool:
    """Whether a step read a page that KVM wrote and calls stable."""
    return bool((page.value("flags") or 0) & PVCLOCK_TSC_STABLE_BIT and page.value("version"))


def _is_reported_stable(event: Event) -> bool:
    """Whether a step read a function of the TSC that KVM calls stable: a page, or what KVM_GET_CLOCK_GUEST
    reports."""
    return is_stable(event) or bool((event.value("page_flags") or 0) & PVCLOCK_TSC_STABLE_BIT)


def _told(events: tuple[Event, ...], origin: Event) -> tuple[int, int] | None:
    """A guest's TSC, and the time in ns that the last of these steps reports for it; None if it reports none.

    Of a KVM_GET_CLOCK that is the TSC of the vCPU whose page `origin` is.
    """
    last = events[-1]
    if last.value("version") is not None or last.value("page_flags") is not None:
        tsc = _last_read(events, last)
        return None if tsc is None or not _is_reported_stable(last) else (tsc, page_time(last.values, tsc))
    clock, host_tsc = last.value("clock"), last.value("host_tsc")
    shown = _shown(events, origin)
    if clock is None or host_tsc is None or shown is None:
        return None
    return vcpu_tsc(host_tsc, *shown), clock


def vcpu_tsc(host_tsc: int, offset: int, ratio: int | None) -> int:
    """A vCPU's TSC at a host's, by the offset and the scaling ratio that debugfs shows (None: no scaling)."""
    if ratio is not None:
        # AMD's ratio has 8 bits before the point and 32 after it, Intel's 48 after it.
        host_tsc = host_tsc * ratio >> (48 if ratio >= 2**40 else 32)
    return (host_tsc + offset) % 2**64


def _last_read(events: tuple[Event, ...], page: Event) -> int | None:
    """The TSC that the guest of a page's vCPU read last."""
    for event in reversed(events):
        if event.operation.enters_guest and event.operation.vcpu_numbers == page.operation.vcpu_numbers:
            return None if event.error else event.guest_tsc
    return None


def _shown(events: tuple[Event, ...], page: Event) -> tuple[int, int | None] | None:
    """The offset of a page's vCPU, and its ratio (None: no scaling); None where no offset was shown.

    debugfs shows offset and ratio, the ratio only after steps that may change it. Without TSC scaling the
    offset attribute says as much.
    """
    ours = [each for each in events if each.operation.vcpu_numbers == page.operation.vcpu_numbers]
    read = [each.value("offset") for each in ours if not each.error]
    offsets = [each.debugfs[0].offset for each in ours if each.debugfs] or [each for each in read if each]
    if not offsets:
        return None
    ratio = next(
        (each.debugfs[0].ratio for each in reversed(ours) if each.debugfs and each.debugfs[0].ratio), None
    )
    return offsets[-1], ratio
