# SPDX-License-Identifier: GPL-2.0-or-later
"""What each proposed rule does, as it was measured on real kernels with each patch built in.

The measurements: Debian's 6.1 with the patches, stock 5.10, 6.1, 6.12, 7.2 and 7.3-rc7, in emulated
machines, twice each. The model has to predict every one of them.
"""

from collections.abc import Callable

import pytest

from kvmharness.contract import implied_offset
from kvmharness.model.interval import Interval
from kvmharness.model.policies import POLICIES
from kvmharness.model.predict import predict
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import CreateVcpu, GetTscOffset, SetMsrs, Time
from kvmharness.trace import Trace
from tests.made_up import play

MEASURED = ("mainline-before-6.7", "like-xu-v1", "sean-christopherson", "oliver-upton", "mainline-6.7")

MS_IN_CYCLES = 2_000_000  # on the simulated host of 2 GHz


def offset(trace: Trace, label: str) -> Interval:
    """The offset that a step implies, in cycles."""
    (event,) = [each for each in trace.events if each.operation.label == label]
    found = implied_offset(event)
    assert found is not None
    return found


def near(one: Interval, other: Interval, cycles: int = MS_IN_CYCLES) -> bool:
    return abs(one.gap(other)) < cycles


def honoured(write: str, seen: str = "offset") -> Callable[[Trace], str]:
    """H if the vCPU counts from the value written (to a millisecond), else SY."""
    return lambda trace: "H" if near(offset(trace, write), offset(trace, seen)) else "SY"


def same(one: str = "offset-0", other: str = "offset-1") -> Callable[[Trace], str]:
    """Whether two vCPUs have one offset, to the cycle."""
    return lambda trace: "yes" if offset(trace, one) == offset(trace, other) else "no"


def kept(before: str, after: str, cycles: int = 1) -> Callable[[Trace], str]:
    return lambda trace: "kept" if near(offset(trace, before), offset(trace, after), cycles) else "lost"


def second_write(trace: Trace) -> str:
    if honoured("second")(trace) == "H":
        return "H"
    return "SY to 1st" if honoured("first")(trace) == "H" else "SY"


def pair(trace: Trace) -> str:
    return f"{same()(trace)}/{honoured('restore-0', 'offset-0')(trace)}"


def flags(trace: Trace) -> str:
    return "/".join(str(each.values[1]) for each in trace.events if each.operation.label.startswith("clock"))


SY, H = "SY", "H"

TABLE = [
    ("young-restore", honoured("restore"), (SY, SY, H, H, H)),
    ("young-restore-twice", second_write, (SY, SY, H, "SY to 1st", "SY to 1st")),
    ("old-restore", honoured("restore"), (H, H, H, H, H)),
    ("qemu-pair-old", same(), ("yes", "yes", "no", "yes", "yes")),
    ("qemu-pair-young", pair, ("yes/SY", "yes/SY", "no/H", "yes/H", "yes/H")),
    ("offset-across-run", kept("set", "offset-after"), ("kept",) * 5),
    ("offset-moved", kept("set", "offset"), ("kept", "lost", "kept", "kept", "kept")),
    ("offset-then-write", honoured("write"), (SY, SY, H, H, SY)),
    ("hotplug-after-restore", same(), ("yes",) * 5),
    ("three-writes", honoured("third"), (SY, SY, H, SY, SY)),
    ("write-after-run-near", honoured("write"), (SY, SY, SY, H, H)),
    ("write-after-run-far", honoured("write"), (H,) * 5),
    ("rewrite-after-run-near", honoured("write"), (SY,) * 5),
    ("rewrite-after-run-far", honoured("write"), (H,) * 5),
    ("clock-flags", flags, ("0/14/14/0",) * 5),
    ("young-restore-moved", honoured("restore", "guest"), (SY, H, H, H, H)),
    ("young-restore-after-move", honoured("restore", "guest"), (SY, SY, H, H, H)),
    (
        "ioctl-from-another-cpu",
        kept("tsc-new", "offset", 90 * MS_IN_CYCLES),
        ("kept", "lost", "kept", "kept", "kept"),
    ),
    # A write of 0 that synchronizes leaves the vCPU counting from its creation, 300 ms before.
    ("write-zero", honoured("write"), (SY,) * 5),
    ("write-one", honoured("write"), (SY, SY, H, H, H)),
    ("zero-then-young-restore", honoured("restore"), (SY, SY, H, SY, SY)),
    ("restore-one-by-one", same(), ("no",) * 5),
]


@pytest.mark.parametrize(("scenario", "outcome", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_the_model_predicts_what_was_measured(
    scenario: str, outcome: Callable[[Trace], str], expected: tuple[str, ...]
) -> None:
    script = SCENARIOS[scenario].script
    policies = [POLICIES[name] for name in MEASURED]
    predictions = predict(scenario, script, policies)
    traces = {name: prediction.trace for prediction in predictions for name in prediction.policies}
    assert {name: outcome(traces[name]) for name in MEASURED} == dict(zip(MEASURED, expected, strict=True))


def test_the_table_is_of_scenarios_that_are_in_the_catalogue() -> None:
    assert {row[0] for row in TABLE} <= set(SCENARIOS)


def test_like_xus_first_version_loses_the_time_between_the_attribute_and_the_run() -> None:
    # Measured: 1000 to 3000 cycles of 1 GHz; here 2000 + 10,000 + 2000 from one operation to the next.
    trace = play("offset-moved", SCENARIOS["offset-moved"].script, "like-xu-v1")
    lost = offset(trace, "set").gap(offset(trace, "offset"))
    assert -100_000 < lost < -1000


def test_a_snap_to_a_generation_that_was_itself_overridden_keeps_the_raw_value() -> None:
    # T, then T + 0.7 s (snaps), then T - 0.7 s: 1.4 s from the raw value that was written last, so it is
    # honoured. A kernel that remembers what the guest really has would have it snap.
    def write(ms: int, label: str) -> SetMsrs:
        return SetMsrs(vcpu=0, msrs=(("TSC", Time(ms * 1_000_000)),), label=label)

    script = (
        CreateVcpu(vcpu=0),
        write(100_000, "first"),
        write(100_700, "second"),
        write(99_300, "third"),
        GetTscOffset(vcpu=0, label="offset"),
    )
    outcomes = {
        name: honoured("third")(play("", script, name))
        for name in ("mainline-before-6.7", "mainline-6.7", "clock-series-2026", "clock-series-2026-origin")
    }
    assert list(outcomes.values()) == ["H", "H", "SY", "SY"]
