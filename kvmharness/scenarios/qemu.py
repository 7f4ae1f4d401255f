# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU: start, reset, hotplug, stop and continue, in its own order."""

from dataclasses import replace

from kvmharness.contract import ForwardClaim, OffsetClaim
from kvmharness.scenarios.qemu_steps import put_full, reset, run, start
from kvmharness.scenarios.scenario import Scenario
from kvmharness.scenarios.steps import MS, count_together, goes_on, look_at
from kvmharness.script import CreateVcpu, GetMsrs, Run, Script, Sleep

_RESET_SOURCE = (
    "recorded from QEMU 7.2, system_reset; QEMU commit 5286c3662294 writes 1 so that a reset resets"
)


def _after_start(vcpus: int, source: str, name: str) -> Scenario:
    return Scenario(
        name=name,
        contract=f"The {vcpus} vCPUs of a VM that QEMU starts count together.",
        source=source,
        consequence="The guest finds its TSCs unsynchronized when it boots, and uses a slower clock.",
        needs=("tsc-write",),
        script=(*start(vcpus), *look_at(vcpus)),
        claims=count_together(vcpus, "one", first="one-0"),
    )


def _reset(age_ms: int) -> Script:
    return (
        *start(2),
        *run(2),
        Sleep(ns=age_ms * MS),
        GetMsrs(vcpu=0, indices=("TSC",), label="tsc-before"),
        *reset(2, "reset"),
        *look_at(2),
    )


_STARTS_AGAIN = "vCPU 0 continues from the 1 that the reset wrote"

SCENARIOS = (
    _after_start(2, "recorded from QEMU 7.2: all machine types put 0, and 4 ms later 1", "qemu-start"),
    _after_start(16, "recorded from QEMU 7.2 with 2 and 4 vCPUs; the same order for 16", "qemu-start-16"),
    Scenario(
        name="qemu-reset-old",
        contract=(
            "After the reset of a QEMU VM that has run for more than a second its vCPUs count from 1 again, "
            "together."
        ),
        source=_RESET_SOURCE,
        consequence="A guest that was reset finds a TSC that was not, or TSCs that are apart.",
        needs=("tsc-write",),
        script=_reset(1050),
        claims=(
            goes_on(_STARTS_AGAIN, "reset-0", "tsc-before", together=("reset-0", "reset-1")),
            *count_together(2, "reset", first="reset-0"),
        ),
    ),
    Scenario(
        name="qemu-reset-young",
        contract=(
            "After the reset of a QEMU VM within a second of its start its vCPUs count from 1 again, "
            "together."
        ),
        source=_RESET_SOURCE,
        consequence=(
            "A guest that is reset early keeps the TSC it had: the reset's 1 is near the 1 of the start."
        ),
        needs=("tsc-write",),
        script=_reset(300),
        claims=(
            goes_on(_STARTS_AGAIN, "reset-0", "tsc-before", together=("one-0", "reset-0")),
            *count_together(2, "reset", first="reset-0"),
        ),
        alone=True,
    ),
    Scenario(
        name="qemu-double-reset",
        contract=(
            "The vCPUs of a QEMU VM count together after the second of the two resets that SeaBIOS makes of "
            "one."
        ),
        source="recorded from QEMU 7.2: SeaBIOS resets again 107 to 189 ms after system_reset",
        consequence="After a reboot the guest's vCPUs disagree about the time.",
        needs=("tsc-write",),
        script=(
            *start(2),
            *run(2),
            Sleep(ns=1050 * MS),
            *reset(2, "reset"),
            *run(2, "ran-again"),
            Sleep(ns=150 * MS),
            *reset(2, "again"),
            *look_at(2),
        ),
        claims=count_together(2, "again", first="again-0"),
    ),
    Scenario(
        name="qemu-hotplug",
        contract=(
            "A vCPU that QEMU adds to a running VM counts together with the one that is there, which "
            "continues undisturbed."
        ),
        source=(
            "recorded from QEMU 7.2, device_add: a new vCPU is written 0 once, and nothing else is written"
        ),
        consequence="A vCPU plugged into a running guest is ahead of the others, or behind them.",
        needs=("tsc-write",),
        script=(
            *start(1),
            *run(1),
            Sleep(ns=300 * MS),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-before"),
            CreateVcpu(vcpu=1, label="create-1"),
            *put_full(1, 0, "plug-1"),
            *look_at(2),
        ),
        claims=(
            OffsetClaim(
                text="vCPU 0 continues as before", seen=("offset-0", "guest-0"), expected=("tsc-before",)
            ),
            *count_together(2, "plug"),
        ),
    ),
    Scenario(
        name="qemu-hotplug-then-reset",
        contract="After a reset both the first and the added vCPU of a QEMU VM count from 1, together.",
        source="recorded from QEMU 7.2: the first reset after a device_add writes 1 to both",
        consequence="A guest that is rebooted after a hotplug has TSCs that are apart.",
        needs=("tsc-write",),
        script=(
            *start(1),
            *run(1),
            CreateVcpu(vcpu=1, label="create-1"),
            *put_full(1, 0, "plug-1"),
            Sleep(ns=1050 * MS),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-before"),
            *reset(2, "reset"),
            *look_at(2),
        ),
        claims=(
            goes_on(_STARTS_AGAIN, "reset-0", "tsc-before", together=("reset-0", "reset-1")),
            *count_together(2, "reset", first="reset-0"),
        ),
    ),
    Scenario(
        name="qemu-replug-after-reset",
        contract=(
            "A vCPU that is unplugged while a QEMU VM is reset, and plugged in again later, counts together "
            "with the one that was reset."
        ),
        source=(
            "QEMU commit 3f2a05b31ee9: a reset used to write 1 only to the vCPUs that are plugged in; one "
            "that is unplugged is kept, and written 0 when it is plugged in again"
        ),
        consequence=(
            "A guest that is rebooted after an unplug finds the vCPU's TSC far ahead when it comes back."
        ),
        needs=("tsc-write",),
        script=(
            *start(2),
            *run(2),
            Sleep(ns=1050 * MS),
            *reset(1, "reset"),
            *run(1, "ran-again"),
            Sleep(ns=50 * MS),
            *put_full(1, 0, "plug-1"),
            *look_at(2),
        ),
        claims=(
            *(
                replace(claim, instead="one-1", otherwise="it was left where it was before the reset")
                for claim in count_together(2, "plug")
            ),
        ),
    ),
    Scenario(
        name="qemu-stop-continue",
        contract="A guest's TSC continues through a stop of its VM as though there had been none.",
        source="recorded from QEMU 7.2: stop reads the TSCs, cont writes none",
        consequence="A guest that was stopped for a moment finds its TSC behind, or set back.",
        needs=("stable-tsc", "guest-16"),
        script=(
            *start(1),
            Run(vcpu=0, label="guest-before"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-stopped"),
            Sleep(ns=200 * MS),
            Run(vcpu=0, label="guest-after"),
            GetMsrs(vcpu=0, indices=("TSC",), label="tsc-after"),
        ),
        claims=(
            OffsetClaim(
                text="the guest continues from where it was before the stop",
                seen=("guest-after", "tsc-after"),
                expected=("guest-before", "tsc-stopped"),
            ),
            ForwardClaim(
                text="its TSC never runs backwards", seen=("guest-before", "tsc-stopped", "guest-after")
            ),
        ),
    ),
)
