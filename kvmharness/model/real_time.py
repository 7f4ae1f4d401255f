# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's CLOCK_REALTIME, which KVM reports with a VM's clock, and adds to one (KVM_CLOCK_REALTIME).

It is known only where instructions are counted. Elsewhere NTP may slew it, or somebody else set it.
"""

from kvmharness.model.interval import Interval
from kvmharness.model.outcome import Clock
from kvmharness.model.quantity import bounds
from kvmharness.model.rules import Rules
from kvmharness.model.state import Moment, World

# It and the raw clock are each rounded down to a ns, and their multipliers have 24 bits or more
# (clocks_calc_mult_shift).
_ROUNDED_NS, _RAW_PPM = 10, 1


def read(rules: Rules, world: World, moment: Moment) -> Clock | None:
    """What a reading of it within the moment is; None if that is not known."""
    drift = _drift(rules, world, moment)
    return None if drift is None else Clock(world.realtime, drift)


def now(rules: Rules, world: World, moment: Moment) -> Interval | None:
    """What it is within the moment (ns), by what was read of it earlier; None if that is not known."""
    above, drift = bounds(world.realtime, world.unknowns), _drift(rules, world, moment)
    if above is None or drift is None:
        return None
    return Interval(moment.ns.low + above.low - drift, moment.ns.high + above.high + drift)


def _drift(rules: Rules, world: World, moment: Moment) -> int | None:
    """By how many ns it may have gone another way than the raw clock, since the VM was created."""
    if not rules.host.one_tsc or world.created is None:
        return None
    return _ROUNDED_NS + (moment.ns.high - world.created.ns.low) * _RAW_PPM // 1_000_000
