# SPDX-License-Identifier: GPL-2.0-or-later
"""The state KVM's TSC code keeps, by the kernel's own names (struct kvm_arch, struct kvm_vcpu_arch).

A World is one way things may stand: every decision has been made, one way or the other, and what is
left unknown is how far the kernel's clocks had come when it read them.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import NamedTuple

from kvmharness.model.armed import Armed
from kvmharness.model.interval import Interval
from kvmharness.model.pages import NO_RUNSTATE, NO_STEAL_TIME, Page, RunstatePage, StealPage, XenClock
from kvmharness.model.quantity import Quantity, Unknowns, bounds, known_part

NOTHING = Quantity(0)
ZERO = Interval(0, 0)

# The most steps of one kind within one operation; unknowns are numbered by operation.
_PER_STEP = 4096

# A guest that writes its TSC again and again makes a sum of all it ever wrote; of a longer one than this
# only the interval is kept.
_MOST_TERMS = 6

# Where the thread runs that plays a script, until its first move tells which CPU that is.
HOME = -2


class DoubtError(Exception):
    """Nothing can be said of a trace from here on; the text says why."""


class Moment(NamedTuple):
    """When something happened: the host's TSC (cycles) and its raw clock (ns), each within an interval."""

    tsc: Interval
    ns: Interval


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of a machine, whatever its kernel's rule. None where it is not known.

    khz              its TSC's rate in kHz (tsc_khz)
    khz_exact        False where that may be 1 % off
    kvm_khz          the rate that KVM noted when it was loaded, if that is another one: vCPUs are created
                     with it, and clocks may count by it
    stable           whether KVM takes the TSC for stable (kvm_check_tsc_unstable)
    one_tsc          whether all CPUs have one TSC, whatever KVM takes it for
    tsc_clocksource  whether its own clock runs on the TSC, without which there is no masterclock
    has_attribute    whether its KVM knows KVM_VCPU_TSC_OFFSET
    has_scale        whether it answers to KVM_VCPU_TSC_SCALE
    has_clock_guest  whether it knows KVM_GET_CLOCK_GUEST and KVM_SET_CLOCK_GUEST
    has_hyperv       whether it offers its guests a Hyper-V
    has_nested       whether its guests (L1) can have guests of their own (L2)
    has_l2_scaling   whether L1 may have L2's TSC count at another rate than its own
    has_steal_time   whether it reports steal time to its guests
    has_xen          whether its VMs can be a Xen's
    marks_xen        whether a mark of the kvmclock page (PVCLOCK_GUEST_STOPPED) gets into Xen's pages
    xen_renews       whether naming the page that a Xen shares has the masterclock looked at again, as up to
                     7.2, though it is of no concern to that; no probe finds it out
    keeps_runstate   whether a runstate's times stand still while the VM's clock is earlier
    keeps_tsc_page   whether it notes a TSC page's status (hv_tsc_page_status, Linux 5.13), and so leaves one
                     alone that is right; of a kernel that does not, nothing is predicted of that page
    fraction_bits    those of its TSC scaling: 32 (AMD), 48 (Intel), 0 for none
    refuses_khz      whether KVM_SET_TSC_KHZ of a vCPU is always refused: without scaling before 5.9
    knows_realtime   whether its KVM knows KVM_CLOCK_REALTIME and KVM_CLOCK_HOST_TSC, of 5.16
    tolerance_ppm    how far from the host's a rate may be without scaling (kvm.tsc_tolerance_ppm)
    """

    khz: int | None = None
    khz_exact: bool = False
    kvm_khz: int | None = None
    stable: bool = True
    one_tsc: bool = False
    tsc_clocksource: bool | None = None
    has_attribute: bool | None = None
    fraction_bits: int | None = None
    refuses_khz: bool | None = None
    knows_realtime: bool | None = None
    tolerance_ppm: int | None = None
    has_rdtscp: bool | None = None
    has_scale: bool | None = None
    has_clock_guest: bool | None = None
    has_hyperv: bool | None = None
    keeps_tsc_page: bool | None = None
    has_nested: bool | None = None
    has_l2_scaling: bool | None = None
    has_steal_time: bool | None = None
    has_xen: bool | None = None
    marks_xen: bool | None = None
    keeps_runstate: bool | None = None
    xen_renews: bool | None = None


class Story(NamedTuple):
    """Why a vCPU has the offset it has: what was decided, and at which step (from 1)."""

    step: int
    text: str


NO_STORY = Story(0, "")


@dataclass(slots=True)
class Vcpu:
    """A vCPU. TSCs and offsets in cycles, this_tsc_nsec in ns; of what the kernel does not call so:

    ratio, ratio_slack  l1_tsc_scaling_ratio, a fraction of 2**fraction_bits, None without scaling, and how
                        far off it may be. 0, by which KVM takes the host's TSC for 0, stays where there is
                        no scaling and the vCPU was created with a rate that would need it
    tsc_always_catchup  whether it is caught up with at each entry, not only where something asks for it
    in_generation       this_tsc_generation == cur_tsc_generation
    has_run             last_vmentry_cpu != -1
    request             whether KVM_REQ_MASTERCLOCK_UPDATE is pending; None where kernels differ
    notified            when (ns) the host's clock left the TSC, for which that may become pending; None: it
                        has been
    entered_since       whether the vCPU has entered since then, and may have seen that
    host_rate_at        the step at which virtual_tsc_khz became the host's own rate of that time, of which
                        it is only a guess; 0 where it is exact
    follows             False where it is not known which kHz its TSC follows: a KVM that ignores writes
                        may go by what userspace asked for or not
    pv_time             whether its kvmclock page is switched on, at its place (layout.py); None: elsewhere
    page                what is in there; None before it was first written
    page_raw            the host's raw clock (ns at a TSC of 0) in the masterclock of which that was written;
                        None: not known. The page then is on the line `page_line`, which rests on the VM's
                        clock `page_origin`, with the offset `page_offset` and the ratio `page_ratio` of the
                        vCPU
    clock_request       whether KVM_REQ_CLOCK_UPDATE, by which it is written, is pending; None: not known
    stopped_request     pvclock_set_guest_stopped_request
    deadline_mode       whether its local APIC's timer is in TSC-deadline mode
    armed               that timer's deadline, None if there is none; against a TSC with the offset
                        `armed_offset`
    timer_requested     whether the timer's interrupt waits in the APIC
    timer_known         False where nothing is known any more of what is armed
    l2_offset           what L1 adds to its TSC for the L2 that is current (cycles); None: L1 is current
    l2_entered_with     what that was when L1 last entered its L2; and the rate of that (millionths of L1's)
    steal               its steal time
    xen_time            whether a Xen's time is switched on, in two pages that are alike: xen_page and xen_...
                        are of them what page and page_... are of the kvmclock page
    runstate            what a Xen tells it of its runstate
    guest               the name of its program
    story               how it came to its offset
    """

    virtual_tsc_khz: int = 0
    l1_tsc_offset: Quantity = NOTHING
    ratio: int | None = None
    ratio_slack: int = 0
    in_generation: bool = False
    this_tsc_nsec: Interval = ZERO
    this_tsc_write: Interval = ZERO
    last_guest_tsc: Interval = ZERO
    ia32_tsc_adjust_msr: Quantity = NOTHING
    has_run: bool = False
    cpu: int = HOME
    tsc_catchup: bool = False
    tsc_always_catchup: bool = False
    request: bool | None = False
    notified: Interval | None = None
    entered_since: bool = False
    host_rate_at: int = 0
    follows: bool = True
    pv_time: bool | None = False
    page: Page | None = None
    page_raw: Interval | None = None
    page_line: Quantity = NOTHING
    page_origin: Quantity = NOTHING
    page_offset: Quantity = NOTHING
    page_ratio: int | None = None
    clock_request: bool | None = False
    stopped_request: bool | None = False
    deadline_mode: bool = False
    armed: Armed | None = None
    armed_offset: Quantity = NOTHING
    timer_requested: bool = False
    timer_known: bool = True
    l2_offset: int | None = None
    l2_entered_with: int = 0
    l2_ppm: int | None = None
    steal: StealPage = NO_STEAL_TIME
    xen_time: bool = False
    xen_page: Page | None = None
    xen_raw: Interval | None = None
    xen_line: Quantity = NOTHING
    xen_origin: Quantity = NOTHING
    xen_offset: Quantity = NOTHING
    xen_ratio: int | None = None
    runstate: RunstatePage = NO_RUNSTATE
    guest: str = ""
    story: Story = NO_STORY


@dataclass(slots=True)
class World:
    """A VM, and what is known of the machine. TSCs and offsets in cycles, *_nsec in ns.

    host_khz ... xen_renews  what is known of the machine, see Host
    refuses_vm_khz   whether KVM_SET_TSC_KHZ of the VM is refused after the first vCPU; None: not seen
    created          when the VM was created; None: not known
    clock_at_master  what the clock is at the masterclock's snapshot (ns), if KVM_SET_CLOCK gave it for that
    realtime         how far the host's CLOCK_REALTIME is above its raw clock (ns)
    master           the masterclock's snapshot (master_cycle_now, master_kernel_ns): when it was taken at the
                     earliest and at the latest
    clocksource_changed  whether the host's clock left the TSC or came back to it; use_master_clock then is so
                     as KVM has it, and until then for a host whose clock runs on the TSC
    clock_khz        the rate that KVM takes the host's TSC for where it reckons with clocks; None: not known
    line, line_raw   the VM's clock at a host's TSC of 0 (ns) while there is a masterclock; and the host's raw
                     clock then, in the masterclock's snapshot. None: not known
    hv_tsc_page, hv_tsc_page_status  a Hyper-V's TSC page (see `reference_time`)
    hv_tsc_emulation_control  whether the guest asked to be notified before KVM writes the page again
    ref_...          what is in there: its sequence (None: not known); the rate that its scale stands for
                     (0: not known); the vCPU's TSC where it is right, in cycles; and as of a kvmclock page
                     the host's raw clock, the line and the VM's clock that it is of, and the offset and the
                     ratio of the vCPU
    xen              the wall clock of a VM that is a Xen's
    memory           what a rule as code remembers (written_rule)
    has_irqchip      whether its vCPUs have local APICs
    pages_known      False once something was written to where a vCPU's kvmclock page may be
    cpu              where the thread is that makes the ioctls
    run_delay        how long that thread has waited for a CPU at the least (ns)
    default_is_first whether default_tsc_khz is still that of the VM's creation
    default_was_set  whether userspace chose default_tsc_khz
    default_is_off   whether default_tsc_khz is not tolerated though userspace did not choose it, as KVM was
                     loaded before the kernel had corrected tsc_khz; None: no vCPU has shown it yet
    last_host_rate_at  what host_rate_at is to virtual_tsc_khz, to last_tsc_khz
    unknowns         the interval each unknown lies in
    step, made       which step it is, and how many unknowns that has made
    """

    host_khz: int | None = None
    tsc_clocksource: bool | None = None
    has_attribute: bool | None = None
    fraction_bits: int | None = None
    refuses_khz: bool | None = None
    knows_realtime: bool | None = None
    has_scale: bool | None = None
    has_clock_guest: bool | None = None
    has_hyperv: bool | None = None
    has_nested: bool | None = None
    has_l2_scaling: bool | None = None
    has_steal_time: bool | None = None
    has_xen: bool | None = None
    xen_renews: bool | None = None
    refuses_vm_khz: bool | None = None
    has_irqchip: bool = False
    pages_known: bool = True
    cpu: int = HOME
    run_delay: int = 0

    created: Moment | None = None
    default_tsc_khz: int | None = None
    default_is_first: bool = True
    default_was_set: bool = False
    default_is_off: bool | None = None
    last_tsc_nsec: Interval = ZERO
    last_tsc_write: Interval = ZERO
    last_tsc_khz: int = 0
    last_host_rate_at: int = 0
    last_tsc_offset: Quantity = NOTHING
    cur_tsc_nsec: Interval = ZERO
    cur_tsc_write: Interval = ZERO
    cur_tsc_offset: Quantity = NOTHING
    nr_vcpus_matched_tsc: int = 0
    user_set_tsc: bool = False
    use_master_clock: bool = False
    clocksource_changed: bool = False
    boot_vcpu_runs_old_kvmclock: bool = False
    master: tuple[Moment, Moment] | None = None
    kvmclock_offset: Quantity = NOTHING
    clock_at_master: Interval | None = None
    realtime: Quantity = NOTHING
    clock_khz: int | None = None
    line: Quantity = NOTHING
    line_raw: Interval | None = None
    hv_tsc_page: int = 0
    hv_tsc_page_status: str | None = "unset"
    hv_tsc_emulation_control: bool = False
    ref_sequence: Interval | None = ZERO
    ref_khz: int = 0
    ref_tsc: Interval | None = None
    ref_raw: Interval | None = None
    ref_line: Quantity = NOTHING
    ref_origin: Quantity = NOTHING
    ref_offset: Quantity = NOTHING
    ref_ratio: int | None = None
    xen: XenClock | None = None
    memory: Hashable = None

    vcpus: dict[int, Vcpu] = field(default_factory=dict)
    unknowns: Unknowns = field(default_factory=dict)
    step: int = 0
    made: int = 0

    @property
    def masterclock(self) -> bool | None:
        """Whether KVM has one; None where that depends on whether the host's clock runs on the TSC."""
        if not self.use_master_clock:
            return False
        return True if self.clocksource_changed else self.tsc_clocksource

    def is_stable(self, page: Page) -> bool | None:
        """Whether a page says PVCLOCK_TSC_STABLE_BIT; None where it is not known."""
        if self.clocksource_changed or not page.stable:
            return page.stable
        return self.tsc_clocksource

    def unknown(self, interval: Interval | None) -> Quantity:
        """A quantity of which only the interval is known (None: nothing at all)."""
        number = self.step * _PER_STEP + self.made
        self.made += 1
        self.unknowns[number] = interval
        return Quantity(0, ((number, 1),))

    def learn_rate(self, step: int, khz: int) -> None:
        """Take note that the host's own rate was `khz` at a step at which some kHz became that."""
        for vcpu in self.vcpus.values():
            if vcpu.host_rate_at == step:
                vcpu.virtual_tsc_khz, vcpu.host_rate_at = khz, 0
        if self.last_host_rate_at == step:
            self.last_tsc_khz, self.last_host_rate_at = khz, 0

    def begin(self, step: int) -> None:
        """A step begins: nothing refers any more to what only the last one spoke of."""
        self.step, self.made = step, 0
        if len(self.unknowns) > 4 * len(self.vcpus) + 8:
            self._forget()

    def fork(self) -> "World":
        """The same again, to go another way."""
        other = World(*_world_values(self))
        other.vcpus = {number: Vcpu(*_vcpu_values(vcpu)) for number, vcpu in self.vcpus.items()}
        other.unknowns = dict(self.unknowns)
        return other

    def _forget(self) -> None:
        """Drop the unknowns on which nothing rests, and keep what rests on many, or on none, short."""
        short: dict[Quantity, Quantity] = {}
        for holder in (self, *self.vcpus.values()):
            for name in _QUANTITIES[type(holder)]:
                quantity = getattr(holder, name)
                if quantity not in short:
                    short[quantity] = self._shortened(quantity)
                setattr(holder, name, short[quantity])
        used = {unknown for quantity in short.values() for unknown, _ in quantity.terms}
        self.unknowns = {number: self.unknowns[number] for number in used}

    def _shortened(self, quantity: Quantity) -> Quantity:
        """The same quantity without the unknowns that are known by now; of too many, only where it lies."""
        quantity = known_part(quantity, self.unknowns)
        if len(quantity.terms) <= _MOST_TERMS:
            return quantity
        return self.unknown(bounds(quantity, self.unknowns))

    def key(self) -> tuple[object, ...]:
        """Equal for worlds that will never differ in anything that can be seen."""
        theirs = tuple([(number, _VCPU_KEY(vcpu)) for number, vcpu in self.vcpus.items()])
        used = {unknown for quantity in _WORLD_QUANTITIES(self) for unknown, _ in quantity.terms}
        for vcpu in self.vcpus.values():
            used.update(unknown for quantity in _VCPU_QUANTITIES(vcpu) for unknown, _ in quantity.terms)
        return _WORLD_KEY(self), theirs, tuple([(number, self.unknowns[number]) for number in sorted(used)])


def distinct(worlds: list[World]) -> list[World]:
    """The worlds that differ in something."""
    return list({world.key(): world for world in worlds}.values()) if len(worlds) > 1 else worlds


# A copy by __init__, which dataclasses writes out, takes a quarter of the time of a loop over the names.
_world_values = attrgetter(*(each.name for each in fields(World)))
_vcpu_values = attrgetter(*(each.name for each in fields(Vcpu)))
_NO_KEY = {"vcpus", "unknowns", "step", "made"}
_WORLD_KEY = attrgetter(*(each.name for each in fields(World) if each.name not in _NO_KEY))
_VCPU_KEY = attrgetter(*(each.name for each in fields(Vcpu) if each.name != "story"))
_QUANTITIES = {
    World: (
        *("last_tsc_offset", "cur_tsc_offset", "kvmclock_offset", "line", "realtime"),
        *("ref_line", "ref_origin", "ref_offset"),
    ),
    Vcpu: (
        *("l1_tsc_offset", "ia32_tsc_adjust_msr", "armed_offset"),
        *("page_line", "page_origin", "page_offset", "xen_line", "xen_origin", "xen_offset"),
    ),
}
_WORLD_QUANTITIES = attrgetter(*_QUANTITIES[World])
_VCPU_QUANTITIES = attrgetter(*_QUANTITIES[Vcpu])
