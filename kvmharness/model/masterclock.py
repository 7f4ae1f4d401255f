# SPDX-License-Identifier: GPL-2.0-or-later
"""The VM's clock: when it runs on the TSC for all vCPUs alike, and what it tells the guest in its pages.

As in `rules`, each rule is named for the kernel function it stands for (arch/x86/kvm/x86.c). A vCPU's
page is written again on its way into the guest, if that was asked for. Who else asks for it (a load on
another CPU, work that comes up 100 ms later or every five minutes) is not modelled: at every entry it may
have been written once more.
"""

from functools import reduce

from kvmharness.guests.layout import kvmclock_address
from kvmharness.model import arithmetic, line
from kvmharness.model.interval import Interval
from kvmharness.model.pages import Page, hull, sum_of, written
from kvmharness.model.quantity import Quantity, bounds, narrow
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.reference_time import ENABLE, ReferenceTime
from kvmharness.model.state import ZERO, DoubtError, Moment, Vcpu, World
from kvmharness.model.time_function import TimeFunction

SYSTEM_TIME = ("SYSTEM_TIME", "SYSTEM_TIME_OLD")
WALL_CLOCK = ("WALL_CLOCK", "WALL_CLOCK_OLD")

# The clocks of a kernel and of its vDSO are rounded in different places.
_ROUNDING_NS = 10

# How far off a vCPU's rate the function of a TSC may be, and how far off its rate KVM may be.
_RATE_HZ, _ROUNDED_HZ = 1000, 4

# How soon a worker has its turn on a machine that counts instructions and does nothing else.
_WORKER_NS = 10_000_000

# More than has passed since 1970, in ns, and so than can have since any real time that was.
_EVER_NS = 2**62


# What a line is known by: see Vcpu.page_raw.
LineOf = tuple[Interval | None, Quantity, Quantity, Quantity, int | None]


class ClockBehindError(Exception):
    """KVM works out how far a TSC has come since a moment that its masterclock has not reached yet."""


class Masterclock(ReferenceTime):
    """The clock of a kernel's VMs."""

    def track_matching(self, world: World, vcpu: Vcpu, *, new_generation: bool) -> None:
        """kvm_track_tsc_matching(), which asks for the masterclock to be looked at again."""
        matching, in_use = self._wants_masterclock(world), world.use_master_clock
        by = self.policy.renews_masterclock
        older = in_use or matching  # up to 6.7
        newer = (in_use and new_generation) or in_use != matching
        if by == "write":
            newer = older
        elif by == "generation":
            older = newer
        elif by == "neither":
            older = newer = in_use != matching
        if older and newer:
            vcpu.request = True
        elif (older or newer) and vcpu.request is False:
            vcpu.request = None

    def all_match(self, world: World) -> bool:
        """Whether all vCPUs are in the generation; its first one is not counted as matched."""
        return world.nr_vcpus_matched_tsc + 1 == len(world.vcpus)

    def _wants_masterclock(self, world: World) -> bool:
        """Whether the vCPUs are as a masterclock needs them, and the host's clock may be."""
        if world.tsc_clocksource is False:
            return False
        if self.policy.stable_by == "offsets":
            return self.all_match(world)
        rates = {(vcpu.virtual_tsc_khz, vcpu.host_rate_at) for vcpu in world.vcpus.values()}
        if len(rates) > 1 and any(step for _, step in rates):
            raise UnknownRateError
        return len(rates) == 1

    def _update(self, world: World, moment: Moment, *, certain: bool) -> None:
        """pvclock_update_vm_gtod_copy() and kvm_end_pvclock_update(), which asks for new pages."""
        world.use_master_clock = self._wants_masterclock(world) and not world.boot_vcpu_runs_old_kvmclock
        self.request_tsc_page_update(world, certain=certain)
        first = moment if certain or world.master is None else world.master[0]
        world.master, world.clock_at_master = (first, moment), None
        self._draw_line(world, self.snapshot(moment), certain=certain)
        for vcpu in world.vcpus.values():
            if vcpu.pv_time is not False or vcpu.xen_time or world.hv_tsc_page & ENABLE:
                vcpu.clock_request = vcpu.clock_request or (True if certain else None)

    def start_masterclock(self, world: World, moment: Moment) -> None:
        """kvm_update_masterclock() at a vCPU's creation, unless there is a masterclock."""
        is_there = world.use_master_clock
        if not is_there or not world.masterclock:
            self._update(world, moment, certain=not is_there and world.tsc_clocksource is True)

    def snapshot(self, moment: Moment) -> Moment:
        """When KVM read the host's TSC and raw clock for a masterclock, both at once."""
        return moment

    @property
    def clock_rates(self) -> tuple[int, ...]:
        """The kHz that KVM may take the host's TSC for where it reckons with clocks; none if it is not known.

        get_cpu_tsc_khz(): the rate of now, or, on a CPU that KVM does not know to have a constant one and up
        to Linux 6.1 on any, that of when KVM was loaded.
        """
        host = self.host
        if not host.khz_exact or host.khz is None:
            return ()
        return tuple(dict.fromkeys((host.kvm_khz or host.khz, host.khz)))

    def _draw_line(self, world: World, moment: Moment, *, certain: bool) -> None:
        """The line that a new masterclock begins; if it is not `certain`, that or the one before."""
        if world.clock_khz is None or world.host_khz is None:
            return
        raw = line.raw_clock(moment, world.clock_khz, world.host_khz)
        offset = bounds(world.kvmclock_offset, world.unknowns)
        drawn = offset and sum_of(raw, offset)
        if not certain:
            before = bounds(world.line, world.unknowns) if world.line_raw else None
            drawn, raw = hull(before, drawn), hull(world.line_raw, raw) or raw
        world.line, world.line_raw = world.unknown(drawn), raw

    def process_requests(self, world: World, number: int, moment: Moment) -> list[World]:
        """The beginning of vcpu_enter_guest(), as far as it is about the clock."""
        vcpu, worlds = world.vcpus[number], [world]
        request, vcpu.request = vcpu.request, False
        if vcpu.notified and self._is_notified(vcpu.notified, moment):
            # An entry before may have been after the worker's turn, and have had this one's part in it.
            request = None if vcpu.entered_since else True
            vcpu.notified, vcpu.entered_since = None, False
        elif vcpu.notified:
            request = vcpu.request = None
        wanted = self._wants_masterclock(world) and not world.boot_vcpu_runs_old_kvmclock
        if request is None and wanted != world.use_master_clock:
            worlds.append(world.fork())
            worlds[1].vcpus[number].notified = None
            self._update(worlds[1], moment, certain=world.tsc_clocksource is not None)
        elif request is not False:
            vcpu.entered_since = vcpu.notified is not None
            self._update(world, moment, certain=request is True and world.tsc_clocksource is not None)
        for each in worlds:
            self._guest_time_update(each, number, moment)
        return worlds

    def catch_up(self, world: World, vcpu: Vcpu, moment: Moment, *, certain: bool = False) -> None:
        """The part of kvm_guest_time_update() that moves the TSC up to where its rate says it should be.

        Unless it is `certain`, whether that comes at this entry depends on requests that are not modelled, so
        the offset is anywhere from where it was to there. With a masterclock it is where it should have been
        when that was last looked at. ClockBehindError when the generation may have begun only after that (its
        request to look again is another vCPU's): compute_guest_tsc() then takes a negative time for an
        unsigned one.
        """
        now = bounds(vcpu.l1_tsc_offset, world.unknowns)
        assert now is not None
        found = [] if certain else [now]
        now_alone = self.policy.catches_up_to == "now"
        for at in [moment] if now_alone else self._snapshots(world, moment):
            if at is not moment and at.ns.low < vcpu.this_tsc_nsec.high:
                raise ClockBehindError
            elapsed, scaled = self.elapsed(vcpu.this_tsc_nsec, at.ns, vcpu), self.scaled(world, vcpu, at.tsc)
            write = vcpu.this_tsc_write
            due = Interval(write.low + elapsed.low, write.high + elapsed.high)
            # Both as unsigned numbers: a TSC that has wrapped around is less than one that is behind it.
            tsc = Interval(now.low + scaled.low, now.high + scaled.high)
            if arithmetic.may_be_less(tsc.low, tsc.high, due.low, due.high):
                found.append(Interval(due.low - scaled.high, due.high - scaled.low).near(now))
            if arithmetic.may_be_at_most(due.low, due.high, tsc.low, tsc.high):
                found.append(now)
        low, high = min(each.low for each in found), max(each.high for each in found)
        if (low, high) != (now.low, now.high):
            vcpu.l1_tsc_offset = world.unknown(Interval(low, high))

    def leave_guest(self, world: World, number: int, *, certain: bool) -> None:
        """The end of vcpu_enter_guest(), which asks for the next catching up; `certain` if it was reached."""
        vcpu = world.vcpus[number]
        if vcpu.tsc_always_catchup:
            vcpu.clock_request = vcpu.clock_request or (True if certain else None)

    def _snapshots(self, world: World, moment: Moment) -> list[Moment]:
        """When KVM read its clocks for a vCPU that it now lets go on; of several moments, some time between.

        With a masterclock that is when this was last looked at, for all vCPUs.
        """
        if world.masterclock is False or world.master is None:
            return [moment]
        snapshots = world.master if world.master[0] != world.master[1] else world.master[:1]
        return [*snapshots] if world.masterclock else [*snapshots, moment]

    # The host's own clock

    def change_clocksource(self, world: World, moment: Moment, *, to_tsc: bool) -> None:
        """pvclock_gtod_notify(): KVM acts when the host's clock leaves the TSC, not when it comes back.

        A worker then asks each vCPU of a host that had a masterclock to look at its own again
        (pvclock_gtod_update_fn()). When that comes up is not known.
        """
        if world.tsc_clocksource is None:
            raise DoubtError("whether the host's clock ran on the TSC before is not known")
        leaves = world.tsc_clocksource and not to_tsc
        world.tsc_clocksource = to_tsc and self.host.stable
        world.clocksource_changed = True
        for vcpu in world.vcpus.values() if leaves else ():
            if world.use_master_clock:
                vcpu.notified, vcpu.entered_since = moment.ns, False
            elif vcpu.request is False:
                vcpu.request = None  # another VM may have a masterclock

    def _is_notified(self, since: Interval, moment: Moment) -> bool:
        """Whether that worker has come up for certain: soon, where nothing else has the machine's time."""
        return self.host.one_tsc and moment.ns.low - since.high > _WORKER_NS

    # The guest's pages

    def write_msr(self, world: World, number: int, name: str, value: int, *, guest: bool) -> None:
        """kvm_write_system_time() and kvm_write_wall_clock(): a write of one of kvmclock's MSRs."""
        vcpu = world.vcpus[number]
        own = kvmclock_address(number)
        if name in WALL_CLOCK:
            world.pages_known = world.pages_known and not value
            return
        if guest and number == 0:
            old = name == "SYSTEM_TIME_OLD"
            if world.boot_vcpu_runs_old_kvmclock is not old:
                vcpu.request = True
            world.boot_vcpu_runs_old_kvmclock = old
        vcpu.pv_time = bool(value & 1) and (value - 1 == own or None)
        # Any other place may be another vCPU's page.
        world.pages_known = world.pages_known and vcpu.pv_time is not None
        vcpu.clock_request = True

    def _guest_time_update(self, world: World, number: int, moment: Moment) -> None:
        """kvm_guest_time_update() and kvm_setup_guest_pvclock(): the page is written, or may be."""
        vcpu = world.vcpus[number]
        request, vcpu.clock_request = vcpu.clock_request, False
        if vcpu.tsc_catchup:
            self.catch_up(world, vcpu, moment, certain=request is True)
        if self.wants_tsc_page(world) and self.policy.honours_writes:
            self.setup_tsc_page(world, vcpu, self._new_page(world, vcpu, moment), certain=request is True)
        if self.policy.honours_writes and (vcpu.pv_time or vcpu.xen_time):
            self._write_pages(world, vcpu, self._new_page(world, vcpu, moment), request)

    def _write_pages(self, world: World, vcpu: Vcpu, new: Page, request: bool | None) -> None:
        """kvm_setup_guest_pvclock(), of the kvmclock page and of Xen's."""
        if vcpu.xen_time:
            mark = self._mark_of_xen(vcpu, new)
            vcpu.xen_page = written(vcpu.xen_page, new._replace(stopped=mark), request)
            before = vcpu.xen_raw, vcpu.xen_line, vcpu.xen_origin, vcpu.xen_offset, vcpu.xen_ratio
            after = self._line_of(world, vcpu, before, certain=request is True)
            vcpu.xen_raw, vcpu.xen_line, vcpu.xen_origin, vcpu.xen_offset, vcpu.xen_ratio = after
            # And what asks for that mark is then done with, or waits for the kvmclock page.
            vcpu.stopped_request = vcpu.stopped_request and (True if vcpu.pv_time else None)
        if vcpu.pv_time:
            vcpu.page = written(vcpu.page, new, request)
            before = vcpu.page_raw, vcpu.page_line, vcpu.page_origin, vcpu.page_offset, vcpu.page_ratio
            after = self._line_of(world, vcpu, before, certain=request is True)
            vcpu.page_raw, vcpu.page_line, vcpu.page_origin, vcpu.page_offset, vcpu.page_ratio = after
            vcpu.stopped_request = False

    def _mark_of_xen(self, vcpu: Vcpu, new: Page) -> bool | None:
        """Whether the mark of the kvmclock page is in Xen's, where some kernels put it; it stays there."""
        old = vcpu.xen_page is not None and vcpu.xen_page.stopped
        if self.host.marks_xen is False or (new.stopped is False and old is False):
            return False
        is_sure = self.host.marks_xen and vcpu.pv_time and (new.stopped or old)
        return True if is_sure else None

    def _line_of(self, world: World, vcpu: Vcpu, before: LineOf, *, certain: bool) -> LineOf:
        """Which line a page is on that was on `before`. If it is not `certain` that it was written, both have
        to be the same."""
        raw = world.line_raw if self.has_line(world) else None
        after = raw, world.line, world.kvmclock_offset, vcpu.l1_tsc_offset, vcpu.ratio
        return after if certain or before == after else (None, *after[1:])

    def look_again(self, world: World, number: int, moment: Moment) -> None:
        """A vCPU in the guest may be sent out of it, by a request that another one made."""
        vcpu = world.vcpus[number]
        request = vcpu.clock_request
        vcpu.clock_request = None if request else request
        self._guest_time_update(world, number, moment)
        vcpu.clock_request = None if request else False

    def _new_page(self, world: World, vcpu: Vcpu, moment: Moment) -> Page:
        offset = bounds(world.kvmclock_offset, world.unknowns)
        snapshots = self._snapshots(world, moment)
        tscs: list[Interval | None] = [self.l1_tsc(world, vcpu, each.tsc) for each in snapshots]
        times: list[Interval | None] = [
            sum_of(self.snapshot(each).ns, offset) for each in snapshots if offset
        ]
        khz = world.clock_khz or world.host_khz
        if khz and vcpu.ratio:
            khz = arithmetic.scaled_khz(khz, vcpu.ratio, world.fraction_bits or 0)
        if world.masterclock and world.clock_at_master is not None:
            offset, times = ZERO, [world.clock_at_master]
        return Page(
            stable=world.use_master_clock and self.all_match(world)
            if self.policy.stable_by == "khz"
            else world.use_master_clock,
            stopped=None
            if vcpu.stopped_request is None
            else vcpu.stopped_request or bool(vcpu.page and vcpu.page.stopped),
            tsc=reduce(hull, tscs),
            ns=reduce(hull, times) if offset else None,
            khz=khz or 0,
        )

    # What userspace asks of the clock

    def set_clock(
        self, world: World, clock: int, realtime: int | None, now: Interval | None, moment: Moment
    ) -> None:
        """kvm_vm_ioctl_set_clock(), in ns: what passed from `realtime` to `now` is added; never less than 0.

        If `now` is not known, neither is how much that is.
        """
        self._update(world, moment, certain=True)
        since = ZERO
        if realtime is not None:
            since = Interval(*(max(0, end - realtime) for end in now)) if now else Interval(0, _EVER_NS)
        set_to = Interval(clock + since.low, clock + since.high)
        # With a masterclock it is what was set at that one's snapshot.
        at = self.snapshot(moment) if world.use_master_clock else moment
        slack = _ROUNDING_NS + at.ns.width // 100
        world.kvmclock_offset = world.unknown(
            Interval(set_to.low - at.ns.high - slack, set_to.high - at.ns.low + slack)
        )
        if self.has_line(world) and world.clock_khz:
            world.line = world.unknown(line.through(set_to, at.tsc, world.clock_khz))
        # A kernel that does not know KVM_CLOCK_REALTIME may take it for the clock at a later moment (5.10).
        world.clock_at_master = set_to if world.knows_realtime and world.masterclock else None

    def set_clock_guest(self, world: World, number: int, function: TimeFunction, moment: Moment) -> None:
        """kvm_vcpu_ioctl_set_clock_guest(), after renew_masterclock(): from its snapshot on the clock is this
        function of the vCPU's TSC."""
        vcpu, at = world.vcpus[number], self.snapshot(moment)
        offset = bounds(vcpu.l1_tsc_offset, world.unknowns)
        assert offset is not None  # only a protected TSC's is not known at all
        khz = world.clock_khz or world.host_khz or 1
        times, lines = [], []
        for tsc in at.tsc:
            scaled = self.scaled(world, vcpu, Interval(tsc, tsc))
            for guests in (scaled.low + offset.low, scaled.high + offset.high):
                times.append(function.time_at(guests))
                lines.append((times[-1] or 0) - line.ns_at(tsc, khz))
        if None in times:
            world.kvmclock_offset, world.line = world.unknown(None), world.unknown(None)
            return
        known = [each for each in times if each is not None]
        slack = _ROUNDING_NS + at.ns.width // 100
        world.kvmclock_offset = world.unknown(
            Interval(min(known) - at.ns.high - slack, max(known) - at.ns.low + slack)
        )
        if self.has_line(world) and world.line_raw:
            # At each end of what is known both are rounded down, and in between either may be.
            between = 0 if at.tsc.width == offset.width == 0 else 1
            drawn, raw = Interval(min(lines) - 1 - between, max(lines) + between), world.line_raw
            world.line = world.unknown(drawn)
            narrow(
                world.kvmclock_offset, Interval(drawn.low - raw.high, drawn.high - raw.low), world.unknowns
            )

    def renew_masterclock(self, world: World, moment: Moment) -> None:
        """kvm_start_pvclock_update() to kvm_end_pvclock_update(): a new snapshot, asked for by userspace."""
        self._update(world, moment, certain=True)

    def counts_at_rate_of(self, world: World, number: int, function: TimeFunction) -> bool | None:
        """Whether a function is of a TSC of this vCPU's rate, to 1 kHz; None if not known."""
        vcpu = world.vcpus[number]
        if world.clock_khz is None or vcpu.ratio_slack or vcpu.ratio == 0:
            return None
        hz = world.clock_khz * 1000
        if vcpu.ratio:
            hz = hz * vcpu.ratio >> (world.fraction_bits or 0)
        apart = abs(function.hz - hz)
        return None if abs(apart - _RATE_HZ) <= _ROUNDED_HZ else apart < _RATE_HZ

    def page_now(self, world: World, number: int, moment: Moment) -> Page:
        """What a vCPU's page would say if it were written now; its version is not known."""
        return self._new_page(world, world.vcpus[number], moment)

    def drift(self, world: World, moment: Moment) -> int:
        """By how many ns the VM's clock may be off the host's raw one: it counts cycles since a snapshot.

        How many cycles a ns has is known to the host's clock and to KVM, but not always as the same number:
        tsc_refine_calibration_work() corrects it after the boot.
        """
        if world.masterclock is False or world.master is None:
            return _ROUNDING_NS
        return _ROUNDING_NS + max(0, moment.ns.high - world.master[0].ns.low) // 100


def scale(khz: int) -> tuple[int, int]:
    """tsc_to_system_mul and tsc_shift (a signed byte, as 0 to 255) for a TSC of `khz` kHz."""
    multiplier, shift = arithmetic.get_time_scale(arithmetic.NS_PER_SECOND, khz * 1000)
    return multiplier, shift % 256
