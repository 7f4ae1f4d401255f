# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU restores a snapshot: loadvm and -incoming, each after the writes of its own start or reset."""

from dataclasses import replace

from kvmharness.contract import OffsetClaim
from kvmharness.scenarios.qemu_steps import SKEW, load, reset, run, start
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, count_together, goes_on, look_at
from kvmharness.script import GetMsrs, Read, Script, Sleep, Time

_BUG = "kernel bug 217423 in the VMM it was found with"
_CONSEQUENCE = (
    "A VM that QEMU saved within a second of its start comes back with the wrong TSC on every kernel so "
    "far: the reset's 1, which comes before the saved value, has counted as a TSC set by userspace."
)
_TOGETHER = count_together(2, "load", first="load-0")


def _restored(instead: str, together: tuple[str, ...] = ()) -> tuple[OffsetClaim, ...]:
    first = goes_on("vCPU 0 continues from its saved TSC", "load-0", instead, together=together)
    first = replace(first, otherwise="the saved TSC was dropped, it counts as after the reset")
    return (first, *_TOGETHER)


def _incoming(saved_ms: int, after_ms: int) -> Script:
    """A new QEMU, which starts as always and then gets what was saved elsewhere."""
    saved = Time(saved_ms * MS)
    return (*start(2), Sleep(ns=after_ms * MS), *load(saved, Time(saved.ns + SKEW.ns)), *look_at(2))


SCENARIOS = (
    Scenario(
        name="qemu-loadvm-young",
        contract=(
            "The vCPUs of a running QEMU VM continue, together, from a snapshot that was taken within a "
            "second of their start."
        ),
        source=f"recorded from QEMU 7.2, savevm and loadvm; {_BUG}",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=(
            *start(2),
            *run(2),
            Sleep(ns=100 * MS),
            GetMsrs(vcpu=0, indices=("TSC",), label="saved-0"),
            GetMsrs(vcpu=1, indices=("TSC",), label="saved-1"),
            Sleep(ns=100 * MS),
            *reset(2, "reset"),
            Sleep(ns=5 * MS),
            *load(Read("saved-0"), Read("saved-1")),
            *look_at(2),
        ),
        claims=_restored("saved-0", together=("one-0", "load-0")),
        alone=True,
    ),
    Scenario(
        name="qemu-loadvm-old",
        contract=(
            "The vCPUs of a running QEMU VM continue, together, from a snapshot that is older than a second."
        ),
        source="recorded from QEMU 7.2, loadvm: stop, a reset, and the saved TSCs 3 to 35 ms later",
        consequence=(
            "A guest that is set back to a snapshot does not get its TSC back, or its vCPUs are apart."
        ),
        needs=("tsc-write",),
        script=(
            *start(2),
            *run(2),
            Sleep(ns=100 * MS),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-before"),
            *reset(2, "reset"),
            Sleep(ns=5 * MS),
            *load(Time(100_000 * MS), Time(100_000 * MS + SKEW.ns)),
            *look_at(2),
        ),
        claims=_restored("tsc-before"),
    ),
    Scenario(
        name="qemu-incoming-young",
        contract=(
            "The vCPUs of a new QEMU continue, together, from a snapshot that was taken within a second of "
            "their start."
        ),
        source=f"recorded from QEMU 7.2, -incoming: 0 and 1 to each, the saved TSCs 34 ms later; {_BUG}",
        consequence=_CONSEQUENCE,
        needs=("tsc-write",),
        script=_incoming(600, after_ms=34),
        claims=_restored("tsc-new-0", together=("one-0", "load-0")),
    ),
    Scenario(
        name="qemu-incoming-old",
        contract="The vCPUs of a new QEMU continue, together, from a snapshot that is older than a second.",
        source=(
            "recorded from QEMU 7.2, -incoming: vCPU 1 is given a TSC 77 to 194 us behind vCPU 0's, which "
            "only KVM's matching hides"
        ),
        consequence="After every migration the guest's vCPUs disagree about the time.",
        needs=("tsc-write",),
        script=_incoming(100_000, after_ms=34),
        claims=_restored("tsc-new-0"),
    ),
    Scenario(
        name="qemu-incoming-deferred",
        contract=(
            "The vCPUs of a QEMU that waited for more than a second continue, together, from a snapshot of a "
            "young VM."
        ),
        source="recorded from QEMU 7.2, -incoming defer: the saved TSCs come seconds after the start's 1",
        consequence="Whether a young snapshot comes back right would depend on how long QEMU waited for it.",
        needs=("tsc-write",),
        script=_incoming(100, after_ms=1150),
        claims=_restored("tsc-new-0"),
    ),
)
