# SPDX-License-Identifier: GPL-2.0-or-later
"""Good trace files at random: scenarios, and anything else that may be done to a VM, on made-up hosts."""

import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kvmharness import script
from kvmharness.guests import PROGRAMS
from kvmharness.judging.probe import PROBES
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.model.state import Host
from kvmharness.player.msr import MSRS
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import Script
from kvmharness.trace import Place, Trace, to_lines

Chance = random.Random
Lines = list[dict[str, Any]]
MS = 1_000_000
UNSTABLE = Host(
    khz=2_000_000,
    khz_exact=True,
    stable=False,
    tsc_clocksource=False,
    has_attribute=True,
    fraction_bits=0,
    tolerance_ppm=250,
)
SCALING = dataclasses.replace(UNSTABLE, stable=True, tsc_clocksource=True, fraction_bits=32)
BARE = dataclasses.replace(UNSTABLE, stable=True, has_attribute=False)
HOSTS = (HOST, HOST, UNSTABLE, SCALING, BARE)
_SCRIPTS = (*PROBES.values(), *(scenario.script for scenario in SCENARIOS.values()))
LABELS = sorted({each.label for operations in _SCRIPTS for each in operations})


def pace(chance: Chance) -> Pace:
    """From a quick machine to one that is held up for seconds."""
    scale = chance.choice((1, 1, 1, 10**3, 10**6, 2 * 10**9))
    before, between, after = (chance.randrange(2_000 * scale) for _ in range(3))
    return Pace(before, between, after, 10_000)


def any_value(chance: Chance, khz: int = 2_000_000) -> script.Value:
    return chance.choice(
        (
            0,
            1,
            chance.randrange(2**64),
            -chance.randrange(2**63),
            script.Time(chance.randrange(-5_000, 5_000) * MS),
            script.Read(chance.choice(LABELS), script.Time(chance.randrange(-3_000, 3_000) * MS)),
            script.Read(chance.choice(LABELS), chance.randrange(3_000 * khz)),
        )
    )


def any_khz(chance: Chance) -> script.Khz:
    return chance.choice(
        (
            0,
            1_000_000,
            2_000_000,
            2_000_100,
            chance.randrange(2**32),
            script.Ppm(chance.randrange(-900_000, 900_000)),
        )
    )


def any_operation(chance: Chance, vcpus: int) -> script.Operation:
    vcpu, label, msrs = chance.randrange(vcpus), chance.choice(LABELS), ("TSC", "TSC", "TSC_ADJUST", *MSRS)
    make: Callable[[], script.Operation] = chance.choice(
        (
            lambda: script.CreateVcpu(vcpu=vcpu, guest=chance.choice(sorted(PROGRAMS)), label=label),
            lambda: script.SetMsrs(
                vcpu=vcpu,
                msrs=tuple((chance.choice(msrs), any_value(chance)) for _ in range(chance.randint(1, 3))),
                label=label,
            ),
            lambda: script.SetMsrs(vcpu=vcpu, msrs=(("TSC", any_value(chance)),), label=label),
            lambda: script.GetMsrs(
                vcpu=vcpu,
                indices=tuple(chance.choice(msrs) for _ in range(chance.randint(1, 3))),
                label=label,
            ),
            lambda: script.GetMsrs(vcpu=vcpu, indices=("TSC",), label=label),
            lambda: script.SetTscOffset(vcpu=vcpu, offset=any_value(chance), label=label),
            lambda: script.GetTscOffset(vcpu=vcpu, label=label),
            lambda: script.SetTscKhz(vcpu=vcpu, khz=any_khz(chance), label=label),
            lambda: script.GetTscKhz(vcpu=vcpu, label=label),
            lambda: script.SetVmTscKhz(khz=any_khz(chance), label=label),
            lambda: script.GetTscScale(vcpu=vcpu, label=label),
            lambda: script.GetClockGuest(vcpu=vcpu, label=label),
            lambda: script.SetClockGuest(
                vcpu=vcpu,
                tsc_timestamp=any_value(chance),
                system_time=any_value(chance),
                multiplier=chance.choice((0, 2**31, chance.randrange(2**32))),
                shift=chance.randrange(256),
                label=label,
            ),
            lambda: script.MoveThread(to=chance.randrange(3), label=label),
            lambda: script.Run(vcpu=vcpu, ns=chance.choice((0, MS)), label=label),
            lambda: script.GuestWrite(
                vcpu=vcpu, msr=chance.choice(msrs), value=any_value(chance), label=label
            ),
            lambda: script.SetLapic(vcpu=vcpu, requested=chance.randrange(2), label=label),
            lambda: script.GetLapic(vcpu=vcpu, label=label),
            lambda: script.AwaitTimer(
                vcpu=vcpu, deadline=chance.choice((None, any_value(chance))), ns=20 * MS, label=label
            ),
            lambda: script.RunL2(vcpu=vcpu, offset=chance.choice((None, any_value(chance))), label=label),
            lambda: script.NestedWrite(
                vcpu=vcpu,
                level=chance.choice((1, 2)),
                msr=chance.choice(("TSC", "TSC_ADJUST")),
                value=any_value(chance),
                label=label,
            ),
            lambda: script.ReadStealTime(vcpu=vcpu, label=label),
            lambda: script.WaitForCpu(ns=chance.choice((0, MS)), label=label),
            lambda: script.SetXen(label=label),
            lambda: script.SetXenTime(vcpu=vcpu, label=label),
            lambda: script.ReadXenTime(vcpu=vcpu, label=label),
            lambda: script.ReadXenVcpuInfo(vcpu=vcpu, label=label),
            lambda: script.ReadXenWallClock(label=label),
            lambda: script.SetXenRunstate(vcpu=vcpu, label=label),
            lambda: script.ReadXenRunstate(vcpu=vcpu, label=label),
            lambda: script.EnterXenRunstate(vcpu=vcpu, state=chance.randrange(4), label=label),
            lambda: script.SetXenRunstateTimes(
                vcpu=vcpu,
                state=chance.randrange(4),
                times=tuple(chance.choice((0, MS, 10**13)) for _ in range(4)),
                label=label,
            ),
            lambda: script.CreateIrqchip(label=label),
            lambda: script.WriteTogether(
                vcpus=tuple(range(vcpus))[:3],
                values=tuple(any_value(chance) for _ in range(vcpus))[:3],
                label=label,
            ),
            lambda: script.GetClock(label=label),
            lambda: script.Sleep(ns=chance.choice((0, MS, 50 * MS, 2_000 * MS)), label=label),
        )
    )
    return make()


def any_script(chance: Chance) -> Script:
    """A VM with up to sixteen vCPUs, and whatever may be done to it."""
    vcpus = chance.choice((1, 2, 3, 16))
    guest = chance.choice(("rdtsc-16", "wrmsr-16", "timer-16", "steal-16", "nested-64"))
    creation: list[script.Operation] = [script.CreateIrqchip()] if guest == "timer-16" else []
    creation += [script.CreateVcpu(vcpu=vcpu, guest=guest, label=f"create-{vcpu}") for vcpu in range(vcpus)]
    return (*creation, *(any_operation(chance, vcpus) for _ in range(chance.choice((0, 5, 40)))))


def good_trace(chance: Chance, name: str, operations: Script, host: Host, policy: str) -> Trace:
    same = chance.randrange(2)
    return simulate(
        name,
        operations,
        POLICIES[policy],
        host,
        pace=lambda operation: Pace() if same else pace(chance),
        choose=chance.randrange,
        debugfs=not chance.randrange(3),
    )


def good_file(chance: Chance) -> Lines:
    """The lines of what --save-traces saves: the probe of a KVM and a scenario that was played on it.

    Every third has something else in the scenario's place: only the judge of policies looks into that.
    """
    host, policy = chance.choice(HOSTS), chance.choice(sorted(POLICIES))
    scenario = SCENARIOS[chance.choice(sorted(SCENARIOS))]
    operations = scenario.script if chance.randrange(3) else any_script(chance)
    counts = bool(chance.randrange(2))
    of = Place("debian:6.1", "amd", "a session", may_protect_tscs=not counts, counts_instructions=counts)
    place = of if chance.randrange(4) else None
    # Where no two runs are the same, a failure has to come twice.
    found = [
        good_trace(chance, name, each, host, policy)
        for _ in range(chance.choice((1, 1, 2)))
        for name, each in (*PROBES.items(), (scenario.name, operations))
    ]
    return in_lines(*(replace(each, place=place) for each in found))


def in_lines(*traces: Trace) -> Lines:
    return [json.loads(line) for trace in traces for line in to_lines(trace)]
