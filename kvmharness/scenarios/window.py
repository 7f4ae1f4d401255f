# SPDX-License-Identifier: GPL-2.0-or-later
"""The edges of the second: what is near enough to what KVM expects to be a request to synchronize."""

from dataclasses import replace

from kvmharness.contract import OffsetClaim, Promptly
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, READ_BOTH, READ_ONE, count_together, look_at, write
from kvmharness.script import CreateVcpu, GetMsrs, Read, Script, Sleep, Time

# How far from the edge the values lie, and how much later than the step before a write may come, so that
# it is still on the side of the edge where it belongs.
_MARGIN_MS = 20
_SOON_NS = 15 * MS
_INSIDE = 1000 - _MARGIN_MS
_OUTSIDE = 1000 + _MARGIN_MS

_COMMENT = (
    "kvm_synchronize_tsc(), whose comment interprets a small delta (1 second) as an attempt to synchronize"
)

_TOGETHER = OffsetClaim(
    text="vCPU 1 counts together with vCPU 0",
    seen=("offset-1", "tsc-1", "guest-1"),
    expected=("offset-0", "tsc-0", "guest-0"),
    instead="second",
    otherwise="it was given a TSC of its own",
    together=("first", "second"),
    within_ns=_SOON_NS,
)
_APART = OffsetClaim(
    text="vCPU 1 continues from the TSC that was written to it",
    seen=("offset-1", "tsc-1", "guest-1"),
    expected=("second",),
    instead="first",
    otherwise="the write was overridden, it counts together with vCPU 0",
    together=("first", "second"),
    within_ns=_SOON_NS,
)
_HONOURED = OffsetClaim(
    text="the vCPU continues from the TSC that was written",
    seen=("offset", "tsc", "guest"),
    expected=("write",),
    instead="tsc-new",
    otherwise="the write was overridden, the vCPU still counts from its creation",
    together=("tsc-new", "write"),
    within_ns=_SOON_NS,
)


def _pair(apart_ms: int, pause_ms: int = 0) -> Script:
    """vCPU 0 is written 100 s, vCPU 1, after a pause, so much more."""
    pause = (Sleep(ns=pause_ms * MS),) if pause_ms else ()
    return (
        CreateVcpu(vcpu=0, label="create-0"),
        CreateVcpu(vcpu=1, label="create-1"),
        write(0, Time(100_000 * MS), "first"),
        *pause,
        write(1, Time((100_000 + apart_ms) * MS), "second"),
        *READ_BOTH,
    )


def _first_write(apart_ms: int, age_ms: int) -> Script:
    """The first TSC that userspace writes, so far from what the vCPU has at that age."""
    return (
        CreateVcpu(vcpu=0, label="create"),
        Sleep(ns=age_ms * MS),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-new"),
        write(0, Read("tsc-new", Time(apart_ms * MS)), "write"),
        *READ_ONE,
    )


def _edge_of_a_pair(name: str, apart_ms: int) -> Scenario:
    where = f"{abs(apart_ms) / 1000:g} s {'ahead of' if apart_ms > 0 else 'behind'}"
    inside = abs(apart_ms) < 1000
    return Scenario(
        name=name,
        contract=f"A vCPU written {where} another that was just restored "
        + ("counts together with it." if inside else "continues from its own value."),
        source=_COMMENT,
        consequence="vCPUs that were saved a little apart come back with TSCs of their own."
        if inside
        else "A VMM cannot give a vCPU a TSC that is more than a second from the others'.",
        needs=("tsc-write",),
        script=_pair(apart_ms),
        claims=(_TOGETHER if inside else _APART,),
    )


def _edge_of_the_first(name: str, apart_ms: int, age_ms: int) -> Scenario:
    where = f"{abs(apart_ms) / 1000:g} s {'ahead of' if apart_ms > 0 else 'behind'}"
    return Scenario(
        name=name,
        contract=(
            f"The first TSC that userspace writes, {where} what KVM gave the vCPU, is the one it continues "
            "from."
        ),
        source=(
            "commit bf328e22e472: the first write by userspace synchronizes with nothing; before it, one "
            "within a second of KVM's own did"
        ),
        consequence=("Whether a snapshot comes back right depends on its age and on the VM's own."),
        needs=("tsc-write",),
        script=_first_write(apart_ms, age_ms),
        claims=(_HONOURED,),
    )


SCENARIOS = (
    _edge_of_a_pair("window-inside-above", _INSIDE),
    _edge_of_a_pair("window-outside-above", _OUTSIDE),
    _edge_of_a_pair("window-inside-below", -_INSIDE),
    _edge_of_a_pair("window-outside-below", -_OUTSIDE),
    _edge_of_the_first("first-write-inside-above", _INSIDE, age_ms=10),
    _edge_of_the_first("first-write-outside-above", _OUTSIDE, age_ms=10),
    _edge_of_the_first("first-write-inside-below", -_INSIDE, age_ms=1100),
    _edge_of_the_first("first-write-outside-below", -_OUTSIDE, age_ms=1100),
    Scenario(
        name="pair-late",
        contract=(
            "A vCPU that is restored to the same value as another, but 0.6 s later, counts together with it."
        ),
        source=f"{_COMMENT}: of virtual cycle time against real time",
        consequence="A VMM that takes half a second between its vCPUs restores a VM whose TSCs are apart.",
        needs=("tsc-write",),
        script=_pair(0, pause_ms=600),
        claims=(replace(_TOGETHER, within_ns=900 * MS),),
    ),
    Scenario(
        name="pair-late-and-behind",
        contract=(
            "A vCPU written 0.6 s later than another, with a value 0.6 s less, is 1.2 s behind it, and "
            "continues from its own value."
        ),
        source=f"{_COMMENT}: what was written last advances with the time",
        consequence="Whether a vCPU gets the TSC that was written depends on how long the VMM took.",
        needs=("tsc-write",),
        script=_pair(-600, pause_ms=600),
        claims=(replace(_APART, together=()),),
    ),
    Scenario(
        name="third-write-behind-a-late-one",
        contract=(
            "Of three vCPUs the second is restored 0.8 s later than the first, to where that is by then, and "
            "the third right after it, half a second less: all count together."
        ),
        source=f"{_COMMENT}: what counts is when the last write was, also of one that synchronized",
        consequence="A vCPU that is restored after a late one has a TSC of its own.",
        needs=("tsc-write",),
        script=(
            *(CreateVcpu(vcpu=vcpu, label=f"create-{vcpu}") for vcpu in range(3)),
            write(0, Time(100_000 * MS), "write-0"),
            Sleep(ns=800 * MS),
            write(1, Time(100_800 * MS), "write-1"),
            write(2, Time(100_300 * MS), "write-2"),
            *look_at(3),
        ),
        claims=count_together(3, "write"),
        promptly=Promptly("write-0", "write-2", 1200 * MS),
    ),
    Scenario(
        name="write-below-zero",
        contract="A vCPU whose TSC is written 0.3 s short of 2**64 continues from there, and wraps to 0.",
        source=(
            "Intel SDM vol. 3, Time-Stamp Counter: 64 bits that wrap around; so do the sums in "
            "kvm_synchronize_tsc(), whose window ends at the wrap"
        ),
        consequence="A TSC near the end of its 64 bits is dropped for another.",
        needs=("tsc-write",),
        script=(
            CreateVcpu(vcpu=0, label="create"),
            write(0, Time(200 * MS), "first"),
            write(0, Time(-300 * MS), "last"),
            *READ_ONE,
        ),
        claims=(
            OffsetClaim(
                text="the vCPU continues from the TSC that was written last",
                seen=("offset", "tsc", "guest"),
                expected=("last",),
                instead="first",
                otherwise="the write was overridden, the vCPU counts as before it",
                together=("first", "last"),
            ),
        ),
    ),
)
