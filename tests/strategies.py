# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypothesis strategies for the project's own data."""

from hypothesis import strategies as st

from kvmharness import script
from kvmharness.guests import PROGRAMS
from kvmharness.model.interval import Interval
from kvmharness.player.msr import MSRS
from kvmharness.trace import Bracket, DebugfsReading, Event, Trace

labels = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", max_size=20)
vcpus = st.integers(0, 15)
msrs = st.sampled_from(sorted(MSRS))
cycles64 = st.integers(0, 2**64 - 1)
times = st.builds(script.Time, st.integers(-(2**63), 2**63))
plain_values = st.one_of(st.integers(-(2**63), 2**64 - 1), times)
values = st.one_of(plain_values, st.builds(script.Read, labels, plain_values, st.integers(0, 5)))
khz = st.one_of(st.integers(0, 2**32 - 1), st.builds(script.Ppm, st.integers(-1_000_000, 100_000_000)))

operations = st.one_of(
    st.builds(script.CreateVcpu, vcpu=vcpus, guest=st.sampled_from(sorted(PROGRAMS)), label=labels),
    st.builds(
        script.SetMsrs,
        vcpu=vcpus,
        msrs=st.lists(st.tuples(msrs, values), min_size=1, max_size=4).map(tuple),
        label=labels,
    ),
    st.builds(
        script.GetMsrs, vcpu=vcpus, indices=st.lists(msrs, min_size=1, max_size=4).map(tuple), label=labels
    ),
    st.builds(script.SetTscOffset, vcpu=vcpus, offset=values, label=labels),
    st.builds(script.GetTscOffset, vcpu=vcpus, label=labels),
    st.builds(script.Run, vcpu=vcpus, ns=st.integers(0, 10**12), label=labels),
    st.builds(
        script.RunTogether,
        vcpus=st.lists(vcpus, min_size=1, max_size=4, unique=True).map(tuple),
        ns=st.integers(0, 10**12),
        label=labels,
    ),
    st.lists(st.tuples(vcpus, values), min_size=1, max_size=4, unique_by=lambda each: each[0]).flatmap(
        lambda pairs: st.builds(
            script.WriteTogether,
            vcpus=st.just(tuple(vcpu for vcpu, _ in pairs)),
            values=st.just(tuple(value for _, value in pairs)),
            label=labels,
        )
    ),
    st.builds(script.SetTscKhz, vcpu=vcpus, khz=khz, label=labels),
    st.builds(script.GetTscKhz, vcpu=vcpus, label=labels),
    st.builds(script.SetVmTscKhz, khz=khz, label=labels),
    st.builds(script.GetTscScale, vcpu=vcpus, label=labels),
    st.builds(script.MoveThread, to=st.integers(0, 15), label=labels),
    st.builds(script.GuestWrite, vcpu=vcpus, msr=msrs, value=values, ns=st.integers(0, 10**12), label=labels),
    st.builds(script.SetClocksource, tsc=st.booleans(), label=labels),
    st.builds(script.SetClockDuringRun, vcpu=vcpus, clock=values, ns=st.integers(0, 10**12), label=labels),
    st.builds(script.SetCpuOnline, cpu=st.integers(0, 15), online=st.booleans(), label=labels),
    st.builds(script.SetHvCpuid, vcpu=vcpus, label=labels),
    st.builds(script.ReadReferenceTime, vcpu=vcpus, ns=st.integers(0, 10**12), label=labels),
    st.builds(script.ReadTscPage, label=labels),
    st.builds(script.SetXen, label=labels),
    st.builds(script.SetXenTime, vcpu=vcpus, label=labels),
    st.builds(script.ReadXenTime, vcpu=vcpus, label=labels),
    st.builds(script.ReadXenVcpuInfo, vcpu=vcpus, label=labels),
    st.builds(script.ReadXenWallClock, label=labels),
    st.builds(script.SetXenRunstate, vcpu=vcpus, label=labels),
    st.builds(script.ReadXenRunstate, vcpu=vcpus, label=labels),
    st.builds(script.EnterXenRunstate, vcpu=vcpus, state=st.integers(0, 3), label=labels),
    st.builds(
        script.SetXenRunstateTimes,
        vcpu=vcpus,
        state=st.integers(0, 3),
        times=st.tuples(*[st.integers(0, 2**63)] * 4),
        label=labels,
    ),
    st.builds(script.ReadStealTime, vcpu=vcpus, ns=st.integers(0, 10**12), label=labels),
    st.builds(script.WaitForCpu, ns=st.integers(0, 10**12), label=labels),
    st.builds(script.GetClock, label=labels),
    st.builds(script.SetClock, clock=values, realtime=st.one_of(st.none(), values), label=labels),
    st.builds(script.KvmclockCtrl, vcpu=vcpus, label=labels),
    st.builds(script.ReadKvmclock, vcpu=vcpus, label=labels),
    st.builds(script.CreateIrqchip, label=labels),
    st.builds(script.SetLapic, vcpu=vcpus, requested=values, label=labels),
    st.builds(script.GetLapic, vcpu=vcpus, label=labels),
    st.builds(
        script.AwaitTimer,
        vcpu=vcpus,
        deadline=st.one_of(st.none(), values),
        ns=st.integers(0, 10**12),
        label=labels,
    ),
    st.builds(
        script.RunL2,
        vcpu=vcpus,
        offset=st.one_of(st.none(), values),
        ns=st.integers(0, 10**12),
        label=labels,
    ),
    st.builds(
        script.NestedWrite,
        vcpu=vcpus,
        level=st.integers(1, 2),
        msr=st.sampled_from(["TSC", "TSC_ADJUST"]),
        value=values,
        ns=st.integers(0, 10**12),
        label=labels,
    ),
    st.builds(script.GetClockGuest, vcpu=vcpus, label=labels),
    st.builds(
        script.SetClockGuest,
        vcpu=vcpus,
        tsc_timestamp=values,
        system_time=values,
        multiplier=values,
        shift=values,
        label=labels,
    ),
    st.builds(script.Sleep, ns=st.integers(0, 10**12), label=labels),
)

brackets = st.builds(
    lambda tsc, width, ns, length: Bracket(tsc, ns, ns + length, tsc + width),
    st.integers(0, 2**63),
    st.integers(0, 2**40),
    st.integers(0, 2**63),
    st.integers(0, 2**40),
)


_VALUES = {
    script.Run: 3,
    script.GuestWrite: 3,
    script.RunL2: 3,
    script.NestedWrite: 3,
    script.GetClock: 2,
    script.MoveThread: 2,
    script.ReadKvmclock: 6,
    script.SetClocksource: 0,
    script.SetCpuOnline: 0,
    script.SetClockDuringRun: 3,
    script.SetHvCpuid: 0,
    script.ReadReferenceTime: 6,
    script.ReadTscPage: 3,
    script.SetXen: 0,
    script.SetXenTime: 0,
    script.ReadXenTime: 6,
    script.ReadXenVcpuInfo: 6,
    script.ReadXenWallClock: 2,
    script.SetXenRunstate: 0,
    script.ReadXenRunstate: 7,
    script.EnterXenRunstate: 2,
    script.SetXenRunstateTimes: 4,
    script.ReadStealTime: 8,
    script.WaitForCpu: 2,
    script.GetClockGuest: 6,
    script.SetClockGuest: 4,
    script.GetTscScale: 2,
    script.Sleep: 0,
    script.KvmclockCtrl: 0,
    script.CreateIrqchip: 0,
    script.SetLapic: 2,
    script.GetLapic: 2,
}


def _value_count(operation: script.Operation) -> int:
    if isinstance(operation, script.SetMsrs | script.GetMsrs):
        return len(operation.msrs if isinstance(operation, script.SetMsrs) else operation.indices)
    if isinstance(operation, script.RunTogether):
        return 4 * len(operation.vcpus)
    if isinstance(operation, script.WriteTogether):
        return 2 * len(operation.vcpus)
    if isinstance(operation, script.SetClock):
        return 1 if operation.realtime is None else 2
    if isinstance(operation, script.AwaitTimer):
        return 1 if operation.deadline is None else 3
    return _VALUES.get(type(operation), 1)


_readings = st.builds(DebugfsReading, cycles64, st.one_of(st.none(), cycles64))


@st.composite
def _events(draw: st.DrawFn) -> Event:
    operation = draw(operations)
    error = draw(st.sampled_from(["", "EINVAL", "ENXIO", "ENOTTY"]))
    count = draw(st.sampled_from([0, _value_count(operation)])) if error else _value_count(operation)
    values = draw(st.lists(cycles64, min_size=count, max_size=count))
    vcpus = len(operation.vcpu_numbers)
    shown = draw(st.lists(_readings, min_size=vcpus, max_size=vcpus)) if draw(st.booleans()) else ()
    return Event(operation, draw(brackets), tuple(values), error, tuple(shown))


events = _events()
traces = st.builds(
    Trace,
    labels,
    labels,
    st.lists(events, max_size=6).map(tuple),
    created=st.one_of(st.none(), brackets),
)

intervals = st.builds(
    lambda low, width: Interval(low, low + width), st.integers(-(2**64), 2**64), st.integers(0, 2**62)
)
