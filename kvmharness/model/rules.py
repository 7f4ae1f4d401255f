# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM does to a guest's TSC, rule by rule, under a policy.

Each rule is named for the kernel function it stands for (arch/x86/kvm/x86.c; read in Linux 6.1, 6.12
and 7.3). A rule takes a world and returns the worlds it may lead to: more than one where the moment
it was read at straddles a decision, or where kernels differ in something no policy speaks of. The
world it was given is used up.
"""

from kvmharness.model import arithmetic, runstate, steal
from kvmharness.model.interval import Interval
from kvmharness.model.masterclock import Masterclock
from kvmharness.model.quantity import Quantity, bounds, narrow
from kvmharness.model.rates import UnknownRateError
from kvmharness.model.state import ZERO, Moment, Story, Vcpu, World

_JOINED = "it gets the offset of the current generation"
_FIRST = "it counts from its creation and begins a generation"
_JOINED_VM = "it counts from the VM's creation, with which the first generation began"
# What last_host_rate_at is where last_tsc_khz is the rate of the VM's creation, and only a guess.
_OF_VM = -1


class Rules(Masterclock):
    """The rules of a kernel with `policy` on `host`."""

    def new_vm(self, created: Moment | None = None) -> World:
        """kvm_arch_init_vm(), within `created` if that is known."""
        host = self.host
        world = World(
            host_khz=host.khz,
            default_tsc_khz=(host.kvm_khz or host.khz) if host.khz_exact else None,
            tsc_clocksource=host.tsc_clocksource if host.stable else False,
            has_attribute=host.has_attribute,
            fraction_bits=host.fraction_bits,
            refuses_khz=host.refuses_khz,
            knows_realtime=host.knows_realtime,
            has_scale=host.has_scale,
            has_clock_guest=host.has_clock_guest,
            created=created,
            has_hyperv=host.has_hyperv,
            has_nested=host.has_nested,
            has_l2_scaling=host.has_l2_scaling,
            has_steal_time=host.has_steal_time,
            has_xen=host.has_xen,
            xen_renews=host.xen_renews,
        )
        world.clock_khz = self.clock_rates[0] if len(self.clock_rates) == 1 else None
        # It counts from the creation of the VM, by a clock that need not have gone on as the raw one did.
        world.kvmclock_offset, world.realtime = world.unknown(None), world.unknown(None)
        return world

    def _offset_for(self, world: World, vcpu: Vcpu, value: Interval, tsc: Interval) -> Quantity:
        """The offset with which the vCPU's TSC is `value` now: kvm_compute_l1_tsc_offset()."""
        return world.unknown(self._offset_within(world, vcpu, value, tsc))

    def _offset_within(self, world: World, vcpu: Vcpu, value: Interval, tsc: Interval) -> Interval:
        """Where that offset lies."""
        scaled = self.scaled(world, vcpu, tsc)
        return Interval(value.low - scaled.high, value.high - scaled.low)

    # Creation

    def create_vcpu(self, world: World, number: int, moment: Moment) -> list[World]:
        """kvm_arch_vcpu_create() and kvm_arch_vcpu_postcreate(): a TSC of 0, written by the kernel."""
        is_first = not world.vcpus
        vcpu = world.vcpus[number] = Vcpu(cpu=world.cpu)
        # The first load comes from no CPU at all, which counts as another one.
        vcpu.tsc_catchup = self.policy.honours_writes and (
            not self.host.stable or self.policy.reloads == "before-first-run"
        )
        khz = world.default_tsc_khz
        if khz is None:
            raise UnknownRateError
        if self.policy.honours_writes:
            # Until set_tsc_khz() sets one, which it does only for a rate that it need not catch up with.
            vcpu.ratio = 0
            if is_first and self.policy.epoch == "vm":
                self._begin_with_vm(world, khz, moment)
        made = []
        for each, _ in self.change_tsc_khz(world, number, khz, moment, created=True):
            if not self.policy.honours_writes:
                # What offset the hardware or the outer host gave the VM is not ours to know.
                offset = each.cur_tsc_offset = (
                    each.cur_tsc_offset if len(each.vcpus) > 1 else each.unknown(None)
                )
                each.vcpus[number].l1_tsc_offset = offset
                made.append(each)
            else:
                made += self.synchronize_tsc(each, number, ZERO, moment, user=False)
        made = made if world.clock_khz else self._by_each_rate(made)
        if self.policy.flags_from == "creation" and self.policy.honours_writes:
            for each in made:
                self.start_masterclock(each, moment)
        return made

    def _begin_with_vm(self, world: World, khz: int, moment: Moment) -> None:
        """The first generation, which began with the VM at a TSC of 0 (`khz` is the VM's rate of now).

        Nobody is in it yet: its first vCPU is none of those that are matched with it.
        """
        since_boot = Moment(Interval(0, moment.tsc.high), Interval(0, moment.ns.high))
        tsc, ns = world.created or since_boot
        world.last_tsc_write = world.cur_tsc_write = ZERO
        world.last_tsc_nsec = world.cur_tsc_nsec = ns
        world.last_tsc_offset = world.cur_tsc_offset = world.unknown(Interval(-tsc.high, -tsc.low))
        world.nr_vcpus_matched_tsc = -1
        host = self.host
        world.last_tsc_khz, world.last_host_rate_at = khz, 0
        if not world.default_is_first and host.khz_exact:
            world.last_tsc_khz = host.kvm_khz or host.khz or 0
        elif not world.default_is_first:
            world.last_tsc_khz, world.last_host_rate_at = world.host_khz or khz, _OF_VM

    def _by_each_rate(self, worlds: list[World]) -> list[World]:
        """The same, for each rate that clocks may count by."""
        found = []
        for each in worlds:
            for khz in self.clock_rates:
                found.append(other := each.fork())
                other.clock_khz = khz
        return found or worlds

    # A vCPU's rate, and what is written with it

    def change_tsc_khz(
        self, world: World, number: int, khz: int, moment: Moment, *, created: bool = False
    ) -> list[tuple[World, bool]]:
        """kvm_set_tsc_khz(), with what the policy has it write: the worlds, and whether it was accepted."""
        if not self.writes_with_khz(world, number, khz):
            return self.set_tsc_khz(world, number, khz, created=created)
        # Of a vCPU that is created this is 0, by a ratio that is not set yet.
        tsc, ratio = self.l1_tsc(world, world.vcpus[number], moment.tsc), world.vcpus[number].ratio
        found: list[tuple[World, bool]] = []
        for each, accepted in self.set_tsc_khz(world, number, khz, created=created):
            worlds = self._write_own_tsc(each, number, tsc, ratio, moment) if accepted else [each]
            found += [(after, accepted) for after in worlds]
        return found

    def change_to_host_khz(self, world: World, number: int, moment: Moment) -> list[World]:
        """kvm_set_tsc_khz() with the host's own rate, and what the policy has it write."""
        if not self.writes_with_khz(world, number, world.host_khz or 0):
            self.set_host_khz(world, number)
            return [world]
        tsc, ratio = self.l1_tsc(world, world.vcpus[number], moment.tsc), world.vcpus[number].ratio
        self.set_host_khz(world, number)
        return self._write_own_tsc(world, number, tsc, ratio, moment)

    def writes_with_khz(self, world: World, number: int, khz: int) -> bool:
        """Whether a vCPU's own TSC is written with its rate."""
        return self.policy.khz_write == "synchronizes" and self.policy.honours_writes

    def _write_own_tsc(
        self, world: World, number: int, tsc: Interval, ratio: int | None, moment: Moment
    ) -> list[World]:
        """A write of the TSC that the vCPU had just before, when its ratio was `ratio`."""
        vcpu = world.vcpus[number]
        tsc = Interval(low := tsc.low % arithmetic.WORD, low + tsc.width)
        kept = None
        if ratio == vcpu.ratio and not vcpu.ratio_slack:
            # KVM reads the host's TSC twice: the vCPU loses what passes in between, which is not negative.
            lost = self.scaled(world, vcpu, moment.tsc).width
            kept = vcpu.l1_tsc_offset.plus(world.unknown(Interval(-lost, 0)))
        # A TSC that wraps around just then may have been 0, which is written as a request.
        zero = world.fork() if tsc.high >= arithmetic.WORD or (tsc.low == 0 and tsc.width) else None
        worlds = self.synchronize_tsc(world, number, tsc, moment, user=True, kept=kept)
        return worlds + (self.synchronize_tsc(zero, number, ZERO, moment, user=True) if zero else [])

    # Writes

    def synchronize_tsc(
        self,
        world: World,
        number: int,
        data: Interval,
        moment: Moment,
        *,
        user: bool,
        kept: Quantity | None = None,
    ) -> list[World]:
        """kvm_synchronize_tsc(): a write of MSR_IA32_TSC, by userspace or at the creation of a vCPU.

        `kept` is the offset that it leaves if it takes effect, where more is known of that than `data` says.
        """
        if not self.policy.honours_writes:
            return [world]
        vcpu = world.vcpus[number]
        decisions = self._synchronizing(world, vcpu, data, moment, user)
        if user and self.policy.is_opened_by("zero" if data == ZERO else "value"):
            world.user_set_tsc = True
        same_rate = self.same_rate(world, vcpu)
        if same_rate is None and len(decisions) == 1:
            decisions = [(False, "its kHz may differ from the last writer's"), *decisions]
        elif same_rate is False:
            whose = "that of the VM's creation," if world.nr_vcpus_matched_tsc < 0 else "the last writer's"
            story = f"its kHz differs from {whose} {world.last_tsc_khz}" if world.last_tsc_khz else _FIRST
            decisions = [(False, story)]
        worlds = [world, *(world.fork() for _ in decisions[1:])]
        for each, (synchronizing, story) in zip(worlds, decisions, strict=True):
            each.vcpus[number].story = Story(each.step, story)
            self._write(each, number, data, moment, synchronizing=synchronizing, kept=kept)
        return worlds

    def _synchronizing(
        self, world: World, vcpu: Vcpu, data: Interval, moment: Moment, user: bool
    ) -> list[tuple[bool, str]]:
        """Whether a write is a request to synchronize, and why: one answer, or both."""
        policy = self.policy
        if not user:
            return [(True, _JOINED if world.nr_vcpus_matched_tsc >= 0 else _JOINED_VM)]
        if data == ZERO and policy.user_zero == "snaps":
            return [(True, f"a write of 0 snaps: {_JOINED}")]
        unmet = self._unmet(world, vcpu)
        if unmet:
            return [(False, f"the write takes effect: {unmet}")]
        expected = self._expected(world, vcpu, moment)
        answers = set()
        for khz in set(self.khz(vcpu)):
            window = khz * 1000 * policy.window_ns // arithmetic.NS_PER_SECOND
            answers |= arithmetic.window_answers_within(*data, *expected, window)
        stories = {
            True: f"the write snaps, as it is near the last one: {_JOINED}",
            False: "the write takes effect: it is too far from the last one to be a request to synchronize",
        }
        return [(answer, stories[answer]) for answer in sorted(answers)]

    def _unmet(self, world: World, vcpu: Vcpu) -> str:
        """What of the policy's requirements is not met, in words; "" if all are."""
        required = self.policy.snap_requires
        if "never" in required:
            return "no write is a request to synchronize"
        if "user-set-tsc" in required and not world.user_set_tsc:
            return "userspace had not set a TSC of this VM before"
        if "vcpu-has-run" in required and not vcpu.has_run:
            return "the vCPU has not run"
        if "vcpus-matched" in required and world.nr_vcpus_matched_tsc == 0:
            return "no other vCPU is matched"
        return ""

    def _expected(self, world: World, vcpu: Vcpu, moment: Moment) -> Interval:
        last = world.last_tsc_write
        elapsed = self.elapsed(world.last_tsc_nsec, moment.ns, vcpu)
        return Interval(last.low + elapsed.low, last.high + elapsed.high)

    def _write(
        self,
        world: World,
        number: int,
        data: Interval,
        moment: Moment,
        *,
        synchronizing: bool,
        kept: Quantity | None,
    ) -> None:
        """The end of kvm_synchronize_tsc(), once it is known whether the write synchronizes."""
        vcpu = world.vcpus[number]
        value, written, ns = data, data, moment.ns
        if synchronizing and self.host.stable:
            offset = world.cur_tsc_offset
            written, ns = self._recorded(world, vcpu, offset, written, moment)
        elif synchronizing:
            elapsed = self.elapsed(world.last_tsc_nsec, moment.ns, vcpu)
            value = written = Interval(data.low + elapsed.low, data.high + elapsed.high)
            offset = self._offset_for(world, vcpu, value, moment.tsc)
        else:
            offset = kept or self._offset_for(world, vcpu, value, moment.tsc)
        vcpu.last_guest_tsc = value
        self._commit(world, vcpu, offset, (written, ns), synchronizing)

    def _recorded(
        self, world: World, vcpu: Vcpu, offset: Quantity, written: Interval, moment: Moment
    ) -> tuple[Interval, Interval]:
        """What KVM records of a write that snapped, as last_tsc_write and last_tsc_nsec."""
        if self.policy.snap_records == "guest":
            known, scaled = bounds(offset, world.unknowns), self.scaled(world, vcpu, moment.tsc)
            assert known is not None
            return Interval(known.low + scaled.low, known.high + scaled.high), moment.ns
        if self.policy.snap_records == "origin":
            return world.last_tsc_write, world.last_tsc_nsec
        return written, moment.ns

    def set_offset(self, world: World, number: int, offset: int, moment: Moment) -> list[World]:
        """kvm_arch_tsc_set_attr(): the offset is taken as given, modulo 2**64."""
        if not self.policy.honours_writes:
            return [world]
        vcpu = world.vcpus[number]
        if self.policy.is_opened_by("attribute"):
            world.user_set_tsc = True
        scaled = self.scaled(world, vcpu, moment.tsc)
        written = Interval(scaled.low + offset, scaled.high + offset)
        vcpu.last_guest_tsc = written
        worlds = []
        for each, matched in self._same_offset(world, vcpu, offset):
            own = each.vcpus[number]
            own.story = Story(each.step, "the offset attribute was set")
            self._commit(each, own, Quantity(offset), (written, moment.ns), matched)
            worlds.append(each)
        return worlds

    def _same_offset(self, world: World, vcpu: Vcpu, offset: int) -> list[tuple[World, bool]]:
        """Whether an offset matches the last one: no, or, where that is not known to the cycle, both."""
        last = bounds(world.last_tsc_offset, world.unknowns)
        given = Interval(offset, offset)
        same_rate = self.same_rate(world, vcpu)
        if same_rate is False or last is None or last.intersection(given) is None:
            return [(world, False)]
        if last.width == 0 and same_rate:
            return [(world, True)]
        other = world.fork()
        # That it matches tells which of the possible ones the last offset was.
        narrow(world.last_tsc_offset, given, world.unknowns)
        return [(other, False), (world, True)]

    def _commit(
        self, world: World, vcpu: Vcpu, offset: Quantity, recorded: tuple[Interval, Interval], matched: bool
    ) -> None:
        """__kvm_synchronize_tsc(); `recorded` is what last_tsc_write and last_tsc_nsec become."""
        world.last_tsc_write, world.last_tsc_nsec = recorded
        world.last_tsc_khz, world.last_host_rate_at = vcpu.virtual_tsc_khz, vcpu.host_rate_at
        world.last_tsc_offset = offset
        vcpu.l1_tsc_offset = offset
        if not matched:
            for other in world.vcpus.values():
                other.in_generation = False
            world.cur_tsc_write, world.cur_tsc_nsec = recorded
            world.cur_tsc_offset = offset
            world.nr_vcpus_matched_tsc = 0
        elif not vcpu.in_generation:
            world.nr_vcpus_matched_tsc += 1
        vcpu.in_generation = True
        vcpu.this_tsc_nsec, vcpu.this_tsc_write = world.cur_tsc_nsec, world.cur_tsc_write
        self.track_matching(world, vcpu, new_generation=not matched)

    # Loads and runs

    def load_vcpu(self, world: World, number: int, moment: Moment) -> None:
        """kvm_arch_vcpu_load(), which comes before every ioctl on a vCPU."""
        vcpu = world.vcpus[number]
        moved, vcpu.cpu = vcpu.cpu != world.cpu, world.cpu
        if moved and vcpu.armed:
            vcpu.armed = vcpu.armed._replace(was_carried=True)
        early = moved and not vcpu.has_run and self.policy.reloads == "before-first-run"
        if self.policy.honours_writes and (early or not self.host.stable):
            self.go_on_from_last(world, vcpu, moment)
            if early:
                vcpu.story = Story(world.step, "the load on another CPU set it back to its last TSC")

    def go_on_from_last(self, world: World, vcpu: Vcpu, moment: Moment) -> None:
        """The part of kvm_arch_vcpu_load() that has the vCPU go on from its last TSC."""
        vcpu.l1_tsc_offset = world.unknown(self.offset_of_load(world, vcpu, moment))
        vcpu.tsc_catchup = True

    def offset_of_load(self, world: World, vcpu: Vcpu, moment: Moment) -> Interval:
        """The offset that a load gives a vCPU which is to go on from its last TSC."""
        return self._offset_within(world, vcpu, vcpu.last_guest_tsc, moment.tsc)

    def enter_guest(self, world: World, number: int, moment: Moment) -> list[World]:
        """vcpu_enter_guest(): what KVM_RUN does before the guest's first instruction, and what it leaves."""
        world.vcpus[number].has_run = True
        steal.record(world, number)
        worlds = self.process_requests(world, number, moment)
        for each in worlds:
            runstate.enter_guest(self, each, number, moment)
        return worlds

    # Writes by the guest itself

    def guest_write_tsc(self, world: World, number: int, value: int, moment: Moment) -> None:
        """A guest's WRMSR of MSR_IA32_TSC: kvm_set_msr_common(), not host_initiated."""
        vcpu = world.vcpus[number]
        if not self.policy.honours_writes:
            vcpu.ia32_tsc_adjust_msr = world.unknown(None)
            return
        offset = self._offset_for(world, vcpu, Interval(value, value), moment.tsc)
        moved = offset.plus(vcpu.l1_tsc_offset, -1)
        vcpu.ia32_tsc_adjust_msr = vcpu.ia32_tsc_adjust_msr.plus(moved)
        vcpu.l1_tsc_offset = offset
        vcpu.story = Story(world.step, "its guest wrote MSR_IA32_TSC")

    def guest_write_adjust(self, world: World, number: int, value: int) -> None:
        """A guest's WRMSR of MSR_IA32_TSC_ADJUST."""
        vcpu = world.vcpus[number]
        moved = Quantity(value).plus(vcpu.ia32_tsc_adjust_msr, -1)
        if self.policy.honours_writes:
            vcpu.l1_tsc_offset = vcpu.l1_tsc_offset.plus(moved)
            vcpu.story = Story(world.step, "its guest wrote MSR_IA32_TSC_ADJUST")
            vcpu.clock_request = True
        vcpu.ia32_tsc_adjust_msr = Quantity(value)

    def host_write_adjust(self, world: World, number: int, value: int) -> None:
        """A host's write of MSR_IA32_TSC_ADJUST, which moves nothing."""
        world.vcpus[number].ia32_tsc_adjust_msr = Quantity(value)
