# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a deadline that a local APIC's timer was given."""

from typing import NamedTuple

from kvmharness.model.interval import Interval


class Armed(NamedTuple):
    """A deadline of the local APIC's timer, and the TSC that it was armed against: its ratio and kHz.

    `since` is when it was armed, in cycles of the host's TSC. It `was_carried` to another CPU since: where
    CPUs have a timer for guests, KVM arms that again, by the TSC of then (kvm_lapic_restart_hv_timer()).
    """

    deadline: int
    ratio: int | None
    khz: int
    since: Interval
    was_carried: bool = False
