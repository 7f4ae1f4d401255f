# SPDX-License-Identifier: GPL-2.0-or-later
"""The rates that a probe shows: those that a KVM creates vCPUs with, and those of the host's TSC."""

from collections.abc import Iterable

from kvmharness.contract.host_rate import measured_khz
from kvmharness.judging.probe import HOST, Probe
from kvmharness.model.arithmetic import TOLERANCE_PPM, tolerated
from kvmharness.player import host_state
from kvmharness.trace import HOSTS_OWN, Event

# How far off the raw clock's rate may be: its multiplier has 24 bits or more (clocks_calc_mult_shift).
_RAW = 1e-6


def rates(probe: Probe) -> tuple[int | None, int | None]:
    """The kHz that a vCPU is created with, and those of the host; each None where it is not known.

    The kernel corrects its rate by 1 % at the most (tsc_refine_calibration_work), where instructions are
    counted by less than kvm.tsc_tolerance_ppm. Where hardware cannot scale, the TSC of a vCPU that is created
    with a rate too far off stands still. A KVM whose two rates are further apart, or whose TSC goes on, is
    wrong about one of them, which must not spoil everything else.
    """
    khz, rate = (rate_of(probe.event(label)) for label in ("create-khz", "host-khz"))
    if not khz or not rate or _tolerated(probe, khz, rate):
        return khz, rate
    scales = ended(probe.event("slower"), ("EINVAL",)) is not False
    foreign = abs(rate - khz) * 100 > khz
    if foreign or ((not scales or counts_instructions(probe)) and not _stands_still(probe)):
        return _right_of(probe, khz, rate)
    return khz, rate


def _right_of(probe: Probe, khz: int, rate: int) -> tuple[int, int | None]:
    """Both rates, where one of the two has to be wrong.

    In the lab the kernel's own raw clock shows which, as KVM was not loaded before the correction. Elsewhere
    the host's stays open.
    """
    low, high = measured_khz(probe.trace(HOST))
    right = [each for each in (khz, rate) if low * (1 - _RAW) <= each <= high * (1 + _RAW)]
    if is_labs(probe) and len(right) == 1:
        return right[0], right[0]
    return khz, None


def counts_instructions(probe: Probe) -> bool:
    """Whether all of it was played in machines that count instructions."""
    return bool(probe.traces) and all(each.place and each.place.counts_instructions for each in probe.traces)


def _tolerated(probe: Probe, khz: int, rate: int) -> bool:
    """Whether KVM leaves a vCPU's rate alone on this host."""
    ppm = host_state.tolerance_ppm(probe.host)
    return tolerated(khz, rate, TOLERANCE_PPM if ppm is None else ppm)


def _stands_still(probe: Probe) -> bool:
    """Whether KVM read one and the same TSC of a new vCPU twice, 20 ms apart."""
    new, aged = (probe.event(label) for label in ("tsc-new", "tsc-aged"))
    return bool(new and aged and new.values and new.values == aged.values)


def rate_of(event: Event | None) -> int | None:
    """The kHz that a step read; None if it read none that can be one."""
    khz = event.value("khz") if event is not None and not event.error else None
    return khz if khz and khz < 2**32 else None


def creation_is_off(probe: Probe) -> str:
    """Why no offset tells anything, where KVM creates vCPUs with a rate that this host's TSC does not have.

    Without a constant TSC, KVM notes tsc_khz when it is loaded (kvm_timer_init), and the kernel may correct
    it later (tsc_refine_calibration_work). A vCPU's rate may then be too far off to be left alone. Where
    hardware cannot scale, KVM takes the TSC of such a vCPU for one that stands still.
    """
    khz, rate = rates(probe)
    if not khz or not rate or khz == rate:
        return ""
    if _tolerated(probe, khz, rate) and not _stands_still(probe):
        return ""
    return (
        f"this KVM creates vCPUs with {khz} kHz, but this host's TSC counts at {rate} kHz. KVM was loaded "
        "before the kernel knew that rate, and has to be loaded again"
    )


def is_labs(probe: Probe) -> bool:
    """Whether all of it was played in a machine of the lab."""
    return bool(probe.traces) and all(each.place and each.place.machine != HOSTS_OWN for each in probe.traces)


def ended(event: Event | None, refusals: Iterable[str]) -> bool | None:
    """Whether a step succeeded; None where it did not, but failed with none of these either."""
    if event is None or event.error not in ("", *refusals):
        return None
    return not event.error
