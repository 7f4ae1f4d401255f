# SPDX-License-Identifier: GPL-2.0-or-later
"""The local APIC's timer in TSC-deadline mode (arch/x86/kvm/lapic.c; read in Linux 6.1 and 6.12).

KVM arms a timer of the host for the time that the guest's TSC, as it stands then, still has to go. What is
done to that TSC later does not move the timer. So the model keeps, with a deadline, the TSC that it was armed
against.
"""

from typing import NamedTuple

from kvmharness.model import arithmetic
from kvmharness.model.armed import Armed
from kvmharness.model.interval import Interval
from kvmharness.model.outcome import Action, Answer, Guess, Outcome, Within
from kvmharness.model.quantity import Quantity, bounds
from kvmharness.model.rules import Rules
from kvmharness.model.state import Vcpu, World

_NEVER = Quantity(0)
_NO_TIME = 2**70  # no TSC comes so far
_PER_MS = 1_000_000  # ns; a TSC of 1 kHz counts one cycle in so many
# A timer of the host goes by CLOCK_MONOTONIC, which NTP may slew (MAXFREQ, linux/timex.h). Where
# instructions are counted nobody does: what is left is the last bit of that clock's multiplier of 24 bits.
_SLEWED_PPM, _RAW_PPM = 500, 1
# A vCPU has the kHz that KVM noted when it was loaded; what the kernel corrects afterwards is less than this.
_CORRECTED_PPM = 100
# KVM may have it go off so long before its time, and wait for the guest's TSC (LAPIC_TIMER_ADVANCE_NS_MAX).
_ADVANCED_NS = 10_000
# So long the kernel may take until a guest whose timer went off has the interrupt.
_WOKEN_NS = 100_000


class _Due(NamedTuple):
    """When the timer goes off: at the earliest and at the latest, in cycles of the host's TSC.

    `usual` is when a timer of the host goes off that is exact. `least` is what the guest's TSC is then at the
    least, and `deadline` what it is if that timer is exact, as far as that does not follow from these; both
    count on where the TSC wraps around. It `may_wait`: a KVM that does not wrap around has it go off later.
    """

    low: int
    high: int
    usual: int
    least: int = 0
    deadline: int = 0
    may_wait: bool = False


def write_deadline(rules: Rules, world: World, vcpu: Vcpu, deadline: int, since: Interval) -> None:
    """kvm_set_lapic_tscdeadline_msr(): dropped unless the timer is in TSC-deadline mode. 0 disarms it.

    Whether the interrupt of an earlier one, which had come by then, is still taken is left open.
    """
    if vcpu.deadline_mode:
        due = _due(rules, world, vcpu)
        vcpu.timer_known = vcpu.timer_known and due is not None and due.low > since.high
        vcpu.armed = Armed(deadline, vcpu.ratio, vcpu.virtual_tsc_khz, since) if deadline else None
        vcpu.armed_offset = vcpu.l1_tsc_offset
        vcpu.timer_known = vcpu.timer_known and _is_line(rules, vcpu)


def read_deadline(rules: Rules, world: World, vcpu: Vcpu, now: Interval) -> Answer:
    """kvm_get_lapic_tscdeadline_msr(): the deadline, until its interrupt is taken.

    One whose time has come reads 0 where its interrupt is put into the APIC at once (APICv).
    """
    if not vcpu.deadline_mode:
        return _NEVER
    if not vcpu.timer_known or not _is_line(rules, vcpu):
        return Guess(vcpu.armed.deadline if vcpu.armed else 0)
    if vcpu.armed is None:
        return _NEVER
    due = _due(rules, world, vcpu)
    ahead = due is not None and due.low > now.high
    return Quantity(vcpu.armed.deadline) if ahead else Guess(vcpu.armed.deadline)


def set_lapic(rules: Rules, world: World, vcpu: Vcpu, now: Interval, *, requested: bool) -> None:
    """kvm_apic_set_state() with the timer in TSC-deadline mode: a deadline is armed again.

    What is set is what was read, so an interrupt that waits already goes on waiting.
    """
    vcpu.deadline_mode, vcpu.timer_requested = True, vcpu.timer_requested or requested
    if vcpu.armed is not None:
        write_deadline(rules, world, vcpu, vcpu.armed.deadline, now)


def is_requested(vcpu: Vcpu) -> Answer:
    """Whether the interrupt waits in the APIC. One whose deadline came may do so already, or soon."""
    if not vcpu.timer_known or (vcpu.armed is not None and not vcpu.timer_requested):
        return None
    return Quantity(int(vcpu.timer_requested))


def forget(vcpu: Vcpu) -> None:
    """An interrupt may have been taken of which nothing is known."""
    vcpu.timer_known = vcpu.timer_known and vcpu.armed is None and not vcpu.timer_requested


def interrupt(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """What a guest that waits for the interrupt notes of its TSC."""
    vcpu = world.vcpus[action.operation.vcpu]
    silent = (None,) * len(action.operation.value_names[:-1])
    khz = world.host_khz
    due = _due_at(action.moment.tsc.low) if khz and vcpu.timer_requested else _due(rules, world, vcpu)
    if due is None or not khz or not rules.policy.honours_writes:
        vcpu.timer_known = False
        return [Outcome(world, (*silent, Guess(vcpu.armed.deadline if vcpu.armed else 0)))]
    begin, end = action.moment.tsc
    waited = action.operation.ns * khz // _PER_MS
    if not vcpu.timer_known or not _is_line(rules, vcpu):
        vcpu.timer_known = False
        usual = rules.l1_tsc(world, vcpu, Interval(*[max(begin, due.usual)] * 2)).low
        came = due.usual <= begin + waited and not due.may_wait
        return [Outcome(world, (*silent, Guess(max(usual, due.deadline) if came else 0)))]
    found = []
    if due.low <= end + waited:
        taken = world.fork()
        own = taken.vcpus[action.operation.vcpu]
        # One that was requested leaves a deadline as it was.
        own.timer_known = not (own.timer_requested and own.armed)
        own.armed, own.timer_requested = None, False
        seen = rules.l1_tsc(world, vcpu, Interval(max(begin, due.low), end + waited))
        low = max(seen.low, min(due.least, seen.high))
        usual = rules.l1_tsc(world, vcpu, Interval(*[max(begin, due.usual)] * 2)).low
        fired = Within(Interval(low, seen.high), exact=min(max(usual, due.deadline), seen.high))
        found.append(Outcome(taken, (*silent, fired)))
    ahead = due.high >= begin + waited
    if ahead or due.may_wait:
        found.append(Outcome(world, (*silent, _NEVER), elsewhere=not ahead))
    return found


def arm_by_guest(rules: Rules, world: World, vcpu: Vcpu, action: Action) -> None:
    """The guest's WRMSR of its deadline, and its TSC just after that, where it got there."""
    if not action.written:
        return
    deadline, begin, end = action.written[0], action.moment.tsc.low, action.moment.tsc.high
    khz, offset = world.host_khz, bounds(vcpu.l1_tsc_offset, world.unknowns)
    if len(action.written) > 1 and khz and offset is not None and _is_line(rules, vcpu):
        if not action.written[1]:
            vcpu.timer_known = False
            return
        first = rules.l1_tsc(world, vcpu, Interval(begin, begin)).low
        passed = (action.written[1] - first) % arithmetic.WORD
        end = min(end, begin + passed * khz // vcpu.virtual_tsc_khz + 2)
    write_deadline(rules, world, vcpu, deadline, Interval(begin, max(begin, end)))


def _is_line(rules: Rules, vcpu: Vcpu) -> bool:
    """Whether a vCPU's TSC is known at each of the host's."""
    honoured = rules.host.stable and rules.policy.honours_writes and vcpu.follows
    return (
        honoured
        and vcpu.virtual_tsc_khz > 0
        and not (vcpu.tsc_catchup or vcpu.ratio == 0 or vcpu.ratio_slack)
    )


def _due(rules: Rules, world: World, vcpu: Vcpu) -> _Due | None:
    """When the interrupt comes; None if that is not known. start_sw_tscdeadline(), apic_timer_expired()."""
    armed, offset = vcpu.armed, bounds(vcpu.armed_offset, world.unknowns)
    if armed is None:
        return _due_at(_NO_TIME)
    host_khz = world.host_khz
    unmoved = (vcpu.l1_tsc_offset, vcpu.ratio) == (vcpu.armed_offset, armed.ratio)
    if offset is None or not (host_khz and armed.khz) or (armed.was_carried and not unmoved):
        return None
    begin, end = armed.since
    counted = _scaled(world, armed, end) - _scaled(world, armed, begin)
    # What the guest's TSC was when it was armed: from this to so much more.
    lap, first = divmod(_scaled(world, armed, begin) + offset.low, arithmetic.WORD)
    most, least = (max(0, armed.deadline - tsc) * _PER_MS for tsc in (first, first + counted + offset.width))
    # KVM reckons with 64 bits: more than 2**64 / 10**6 cycles are taken for fewer.
    laps = most // arithmetic.WORD
    wrapped = first + counted + offset.width >= arithmetic.WORD  # the guest's TSC itself, perhaps
    if wrapped or laps != least // arithmetic.WORD:
        return None

    def to_go(tsc: int) -> int:
        ns = (max(0, armed.deadline - tsc) * _PER_MS - laps * arithmetic.WORD) // armed.khz
        return ns * host_khz // _PER_MS

    usual = begin + to_go(first + offset.width)
    low = min(usual, end + to_go(first + counted + offset.width))
    high = max(begin + to_go(first), end + to_go(first + counted))
    # Armed a cycle later there is a cycle less to go: the same, if KVM's kHz is the TSC's rate.
    rate = host_khz if armed.ratio is None else host_khz * armed.ratio >> (world.fraction_bits or 0)
    exact = abs(armed.khz - rate) * _PER_MS <= rate * _CORRECTED_PPM
    low = low if exact else min(low, begin)
    slewed = _RAW_PPM if rules.host.one_tsc else _SLEWED_PPM
    low -= (high - begin) * slewed // _PER_MS + 2 + _ADVANCED_NS * host_khz // _PER_MS
    high += (high - begin) * slewed // _PER_MS + 2 + _WOKEN_NS * host_khz // _PER_MS
    if not (exact and unmoved) or laps:
        return _Due(low, high, usual, may_wait=laps > 0)
    ahead = max(0, armed.deadline - first) * slewed // _PER_MS + 2
    deadline = armed.deadline + lap * arithmetic.WORD
    return _Due(low, high, usual, deadline - ahead, deadline)


def _due_at(tsc: int) -> _Due:
    return _Due(tsc, tsc, tsc)


def _scaled(world: World, armed: Armed, tsc: int) -> int:
    return tsc if armed.ratio is None else tsc * armed.ratio >> (world.fraction_bits or 0)
