# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypothesis strategies for the model: policies, hosts, scripts that a player can play, and its pace."""

import dataclasses

from hypothesis import strategies as st

from kvmharness import script
from kvmharness.guests.layout import kvmclock_address
from kvmharness.model import policy
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import Pace
from kvmharness.model.state import Host
from kvmharness.model.written_rule import Decision, Write, WrittenRule
from kvmharness.script import Operation, Ppm, Read, Script, Time

MS = 1_000_000


def subsets(names: dict[str, str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(sorted(names)))


@dataclasses.dataclass(frozen=True)
class AnyRule(WrittenRule):
    """A rule as code that decides by how many writes there were: yes, no, either (None), or as ever ("")."""

    decisions: tuple[bool | str | None, ...]
    honours_offsets: bool
    writes_with_khz: bool

    def kvm_synchronize_tsc(self, write: Write, memory: int | None, otherwise: Decision) -> Decision:
        decided = self.decisions[(memory or 0) % len(self.decisions)]
        return otherwise if isinstance(decided, str) else decided

    def kvm_arch_tsc_set_attr(self, vcpu: int, offset: int, memory: int | None) -> bool:
        return self.honours_offsets or bool((memory or 0) % 2)

    def kvm_set_tsc_khz(self, vcpu: int, khz: int, memory: int | None, otherwise: bool) -> bool:
        return self.writes_with_khz

    def remember(self, write: Write, memory: int | None, snapped: bool) -> int:
        return ((memory or 0) + 1 + snapped + write.by_user) % 16


rules = st.builds(
    AnyRule,
    st.lists(st.sampled_from([True, False, None, "", ""]), min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
)

# The proposed ones, and any combination of the choices, with a rule as code or without.
policies = st.one_of(
    st.sampled_from(list(POLICIES.values())),
    st.builds(
        Policy,
        name=st.just("any"),
        summary=st.just(""),
        source=st.just(""),
        snap_requires=subsets(policy.SNAP_REQUIRES),
        user_set_by=subsets(policy.USER_SET_BY),
        user_zero=st.sampled_from(sorted(policy.USER_ZERO)),
        window_ns=st.sampled_from([1, 10**6, 10**9, 10**10]),
        snap_records=st.sampled_from(sorted(policy.SNAP_RECORDS)),
        khz_write=st.sampled_from(sorted(policy.KHZ_WRITE)),
        stable_by=st.sampled_from(sorted(policy.STABLE_BY)),
        flags_from=st.sampled_from(sorted(policy.FLAGS_FROM)),
        epoch=st.sampled_from(sorted(policy.EPOCH)),
        renews_masterclock=st.sampled_from(sorted(policy.RENEWS_MASTERCLOCK)),
        catches_up_to=st.sampled_from(sorted(policy.CATCHES_UP_TO)),
        reloads=st.sampled_from(sorted(policy.RELOADS)),
        rule=st.one_of(st.none(), rules),
    ),
)

hosts = st.builds(
    Host,
    khz=st.sampled_from([999_951, 1_000_000, 2_445_432, 3_999_999]),
    khz_exact=st.just(True),
    stable=st.booleans(),
    tsc_clocksource=st.booleans(),
    has_attribute=st.booleans(),
    fraction_bits=st.sampled_from([0, 32, 48]),
    refuses_khz=st.just(False),
    knows_realtime=st.booleans(),
    tolerance_ppm=st.sampled_from([250, 250, 0, 100, 5_000]),
    has_scale=st.booleans(),
    has_nested=st.booleans(),
    has_l2_scaling=st.booleans(),
    has_clock_guest=st.booleans(),
)

# From none to longer than any window.
cycles = st.one_of(st.integers(0, 5_000), st.integers(0, 10**9), st.sampled_from([0, 5 * 10**9]))
paces = st.builds(Pace, cycles, cycles, cycles, cycles, waited=st.none())
short = st.integers(0, 500)
short_paces = st.builds(Pace, short, short, short, short, waited=st.none())

# Around what is decisive: 0, 1, the window's edges (a second from what was), far, the end of 64 bits. Not
# halfway round the circle: where a TSC catches up from there, the model says that it cannot tell.
times = st.one_of(
    st.integers(-2_100, 2_100).map(lambda ms: Time(ms * MS)),
    st.sampled_from([Time(0), Time(10**9), Time(-(10**9)), Time(100 * 10**9)]),
)
clock_times = st.one_of(
    st.builds(Read, st.just("clock"), st.sampled_from([0, Time(10**9), Time(-(10**9))])),
    st.sampled_from([Time(0), Time(10**14), 2**63]),
)
plain = st.one_of(st.sampled_from([0, 1, 2**58, 2**64 - 1]), times)
khz = st.one_of(
    st.sampled_from([0, 1, 10**6, 2**31, 2**32 - 1]),
    st.sampled_from([-500_000, -1000, -250, -200, 0, 200, 250, 251, 1000, 10**6]).map(Ppm),
)


def _operations(
    vcpu: int, earlier: list[str], frequencies: bool, has_read: bool
) -> st.SearchStrategy[Operation]:
    read = st.builds(Read, st.sampled_from(earlier), times) if earlier else plain
    values: st.SearchStrategy[script.Value] = st.one_of(plain, read)
    own = kvmclock_address(vcpu) + 1
    names = st.sampled_from(["TSC", "TSC", "TSC", "TSC_ADJUST", "TSC_DEADLINE"])
    choices: list[st.SearchStrategy[Operation]] = [
        st.builds(
            script.SetMsrs,
            vcpu=st.just(vcpu),
            msrs=st.lists(st.tuples(names, values), min_size=1, max_size=2).map(tuple),
        ),
        st.builds(script.SetMsrs, vcpu=st.just(vcpu), msrs=values.map(lambda value: (("TSC", value),))),
        st.builds(
            script.GetMsrs, vcpu=st.just(vcpu), indices=st.lists(names, min_size=1, max_size=2).map(tuple)
        ),
        st.builds(script.GetMsrs, vcpu=st.just(vcpu), indices=st.just(("TSC",))),
        st.builds(script.SetTscOffset, vcpu=st.just(vcpu), offset=values),
        st.builds(script.GetTscOffset, vcpu=st.just(vcpu)),
        st.builds(script.Run, vcpu=st.just(vcpu)),
        st.builds(
            script.GuestWrite, vcpu=st.just(vcpu), msr=st.sampled_from(["TSC", "TSC_ADJUST"]), value=values
        ),
        st.builds(script.GetClock),
        st.builds(script.ReadKvmclock, vcpu=st.just(vcpu)),
        st.builds(script.KvmclockCtrl, vcpu=st.just(vcpu)),
        st.builds(script.GetTscScale, vcpu=st.just(vcpu)),
        st.builds(script.GetClockGuest, vcpu=st.just(vcpu)),
        st.builds(
            script.SetClockGuest,
            vcpu=st.just(vcpu),
            tsc_timestamp=values,
            system_time=clock_times,
            multiplier=st.sampled_from([0, 2**31, 2**32 - 1]),
            shift=st.sampled_from([0, 1, 255, 100]),
        ),
        st.builds(
            script.SetClock,
            clock=clock_times,
            realtime=st.one_of(st.none(), st.just(Read("clock", place=2)), clock_times),
        ),
        # Twice its own page, then elsewhere, off, and the old MSR.
        st.builds(
            script.SetMsrs,
            vcpu=st.just(vcpu),
            msrs=st.sampled_from((own, own, own, 0x3800, 0x5001, 0)).map(
                lambda page: (("SYSTEM_TIME", page),)
            ),
        ),
        st.builds(
            script.GuestWrite,
            vcpu=st.just(vcpu),
            msr=st.sampled_from(["SYSTEM_TIME", "SYSTEM_TIME", "SYSTEM_TIME_OLD", "WALL_CLOCK"]),
            value=st.sampled_from([own, own, 0]),
        ),
        st.builds(script.SetClocksource, tsc=st.booleans()),
        st.builds(script.SetCpuOnline, cpu=st.integers(0, 2), online=st.booleans()),
        st.builds(script.MoveThread, to=st.integers(0, 2)),
        st.builds(script.Sleep, ns=st.sampled_from([0, 50 * MS, 900 * MS, 1000 * MS, 2500 * MS])),
    ]
    if has_read:
        # On the same vCPU or another.
        each = [Read("clock-guest", place=place) for place in (1, 2, 3, 4)]
        set_as_read = script.SetClockGuest(
            vcpu=vcpu, tsc_timestamp=each[0], system_time=each[1], multiplier=each[2], shift=each[3]
        )
        choices.append(st.just(set_as_read))
    if frequencies:
        choices += [
            st.builds(script.SetTscKhz, vcpu=st.just(vcpu), khz=khz),
            st.builds(script.GetTscKhz, vcpu=st.just(vcpu)),
            st.builds(script.SetVmTscKhz, khz=khz),
        ]
    return st.one_of(choices)


def _timer_operations(vcpu: int, earlier: list[str]) -> st.SearchStrategy[Operation]:
    # From the TSC as it was read: past, soon, later; hours ahead, where KVM wraps around; half way round.
    ahead = st.one_of(
        st.integers(-30, 60).map(lambda ms: Time(ms * MS)),
        st.integers(2**44 - 10**8, 2**44 + 10**8),
        st.sampled_from([2**64 // 10**6 + 10**6, 2**63]),
    )
    values: st.SearchStrategy[script.Value] = (
        st.one_of(plain, st.builds(Read, st.sampled_from(earlier), ahead)) if earlier else plain
    )
    ns = st.sampled_from([0, 10 * MS, 40 * MS])
    return st.one_of(
        st.builds(script.SetLapic, vcpu=st.just(vcpu), requested=st.sampled_from([0, 0, 1])),
        st.builds(script.GetLapic, vcpu=st.just(vcpu)),
        values.map(lambda value: script.SetMsrs(vcpu=vcpu, msrs=(("TSC_DEADLINE", value),))),
        st.builds(script.GetMsrs, vcpu=st.just(vcpu), indices=st.just(("TSC", "TSC_DEADLINE"))),
        st.builds(script.AwaitTimer, vcpu=st.just(vcpu), ns=ns),
        st.builds(script.AwaitTimer, vcpu=st.just(vcpu), deadline=values, ns=ns),
    )


def _nested_operations(vcpu: int) -> st.SearchStrategy[Operation]:
    return st.one_of(
        st.builds(
            script.RunL2,
            vcpu=st.just(vcpu),
            offset=st.one_of(st.none(), plain),
            rate_ppm=st.sampled_from([None, None, 500_000, 1_234_567, 100_000_000]),
        ),
        st.builds(
            script.NestedWrite,
            vcpu=st.just(vcpu),
            level=st.sampled_from([1, 2]),
            msr=st.sampled_from(["TSC", "TSC_ADJUST"]),
            value=plain,
        ),
    )


@st.composite
def scripts(
    draw: st.DrawFn, *, frequencies: bool = True, most: int = 14, timers: bool = False, nested: bool = False
) -> Script:
    """A script of up to four vCPUs, created anywhere in it, that refers to what it read before.

    With `timers` their guests wait for their deadline timers, with `nested` they have guests of their own.
    """
    found: list[Operation] = [script.CreateIrqchip()] if timers else []
    vcpus: list[int] = []
    readable: list[str] = []
    for number in range(draw(st.integers(1, most))):
        label = f"s{number}"
        if not vcpus or (len(vcpus) < 4 and draw(st.integers(0, 4)) == 0):
            vcpus.append(len(vcpus))
            guest = draw(st.sampled_from(["rdtsc-16", "rdtsc-64", "wrmsr-16", "warp-64"]))
            guest = "timer-16" if timers else "nested-64" if nested else guest
            found.append(script.CreateVcpu(vcpu=vcpus[-1], guest=guest, label=label))
            found += [script.SetLapic(vcpu=vcpus[-1])] if timers and draw(st.integers(0, 7)) else []
            continue
        if timers and draw(st.booleans()):
            operation = draw(_timer_operations(draw(st.sampled_from(vcpus)), readable))
            found.append(dataclasses.replace(operation, label=label))
            readable += [label] if isinstance(operation, script.GetMsrs) else []
            continue
        if nested and draw(st.booleans()):
            operation = draw(_nested_operations(draw(st.sampled_from(vcpus))))
            found.append(dataclasses.replace(operation, label=label))
            continue
        if len(vcpus) > 1 and draw(st.integers(0, 9)) == 0:
            pair = draw(st.permutations(vcpus))[:2]
            found.append(script.RunTogether(vcpus=tuple(pair), label=label))
            continue
        if len(vcpus) > 1 and draw(st.integers(0, 9)) == 0:
            pair = draw(st.permutations(vcpus))[: draw(st.integers(2, 3))]
            written = tuple(draw(plain) for _ in pair)
            found.append(script.WriteTogether(vcpus=tuple(pair), values=written, label=label))
            continue
        has_read = any(isinstance(each, script.GetClockGuest) for each in found)
        operation = draw(_operations(draw(st.sampled_from(vcpus)), readable, frequencies, has_read))
        label = "clock" if isinstance(operation, script.GetClock) else label
        label = "clock-guest" if isinstance(operation, script.GetClockGuest) else label
        found.append(dataclasses.replace(operation, label=label))
        if isinstance(operation, script.GetMsrs | script.Run):
            readable.append(label)
    return tuple(found)
