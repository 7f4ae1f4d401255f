# SPDX-License-Identifier: GPL-2.0-or-later
"""What operations on vCPUs and their TSCs lead to (see `operations`)."""

from kvmharness.guests.layout import L2_FRACTION_BITS, l2_multiplier
from kvmharness.model import steal, timer
from kvmharness.model.interval import Interval, signed
from kvmharness.model.masterclock import SYSTEM_TIME, WALL_CLOCK
from kvmharness.model.outcome import OK, REFUSED, UNKNOWN, Action, Answer, Outcome, Tsc, Within
from kvmharness.model.quantity import Quantity
from kvmharness.model.rules import Rules
from kvmharness.model.state import HOME, DoubtError, Moment, Vcpu, World

# A step may write a thousand values, and each may leave two ways open.
_MOST_WORLDS = 256

# The guest whose second reading is an RDMSR.
_READS_BY_RDMSR = "rdmsr-16"

# Cycles that KVM loses in rounding L2's TSC, beside what the last bit of a ratio stands for.
_ROUNDED = 3
# Beyond this it is not known which sign L1's offset has.
_FARTHEST = 2**62


def reported_tsc(rules: Rules, world: World, vcpu: Vcpu, action: Action, *, of_l2: bool = False) -> Answer:
    """The TSC that KVM reckons the vCPU has; or its L2, which is current."""
    if not vcpu.follows:
        return None
    tsc: Answer = Tsc(vcpu.l1_tsc_offset, vcpu.ratio)
    if vcpu.ratio_slack:
        tsc = Within(rules.l1_tsc(world, vcpu, action.moment.tsc))
    return _of_l2(rules, world, vcpu, tsc, action.moment) if of_l2 else tsc


def _of_l2(rules: Rules, world: World, vcpu: Vcpu, tsc: Answer, moment: Moment) -> Answer:
    """What L2 reads where L1 would read `tsc`: kvm_calc_nested_tsc_offset() and _multiplier()."""
    offset = vcpu.l2_offset or 0
    if vcpu.l2_ppm is not None:
        seen = tsc.bounds(world, moment) if isinstance(tsc, (Tsc, Within)) else None
        return seen and _scaled_for_l2(seen, rules.scaled(world, vcpu, moment.tsc), vcpu.l2_ppm, offset)
    if isinstance(tsc, Tsc):
        return Tsc(tsc.offset.plus(Quantity(offset)), tsc.ratio)
    if isinstance(tsc, Within):
        low, high = tsc.interval
        return Within(Interval(low + offset, high + offset))
    return None


def _scaled_for_l2(seen: Interval, host: Interval, ppm: int, offset: int) -> Answer:
    """L1's TSC at L2's rate: KVM scales the host's, and L1's offset, which has a sign for it.

    Each of the two is rounded by less than a cycle, the product of both ratios by one of its last bit, and
    L1's TSC by a cycle of its own, which L2 may count several times.
    """
    low = host.low + signed(seen.low - host.low)
    if abs(low) > _FARTHEST:
        return None
    multiplier = l2_multiplier(ppm)
    least, most = (each * multiplier >> L2_FRACTION_BITS for each in (low, low + seen.width))
    rounded = _ROUNDED + (multiplier + host.high >> L2_FRACTION_BITS)
    return Within(Interval(least - rounded + offset, most + rounded + offset), exact=least + offset)


def create_vcpu(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_CREATE_VCPU: kvm_arch_vcpu_create() and kvm_arch_vcpu_postcreate()."""
    number = action.operation.vcpu
    if number in world.vcpus:
        return [Outcome(world, (), frozenset({"EEXIST"}))]
    if world.default_tsc_khz is None and action.written:
        # max_tsc_khz, which is the host's tsc_khz when KVM was loaded, or near it.
        world.default_tsc_khz = action.written[0]
        world.host_khz = world.host_khz or action.written[0]
    if action.refused and (world.default_tsc_khz or 0) >= 2**31:
        # KVM_GET_TSC_KHZ keeps them in an int, which becomes some errno: the player gives the vCPU up.
        raise DoubtError("a rate of 2**31 kHz and more reads as an errno, so that the vCPU was given up")
    worlds = rules.create_vcpu(world, number, action.moment)
    for each in worlds:
        each.vcpus[number].guest = action.operation.guest
    return [Outcome(each, (Quantity(each.vcpus[number].virtual_tsc_khz),)) for each in worlds]


def set_msrs(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_MSRS: one after the other, as far as they are modelled."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    names = [name for name, _ in action.operation.msrs]
    others = not set(names) <= {"TSC", "TSC_ADJUST"}
    worlds, outcomes = [world], list[Outcome]()
    for name, value in zip(names, action.written, strict=True):
        if name == steal.STEAL_TIME and value & steal.RESERVED:
            return [*outcomes, *(Outcome(each, (), REFUSED) for each in worlds)]
        if others and action.refused and not (name == steal.STEAL_TIME and world.has_steal_time):
            # An MSR that is not modelled was refused, and with it all behind it: any number got through.
            outcomes += [Outcome(each.fork(), (), frozenset()) for each in worlds]
        if name == "TSC":
            worlds = [
                after
                for each in worlds
                for after in rules.synchronize_tsc(
                    each, number, Interval(value, value), action.moment, user=True
                )
            ]
            if len(worlds) + len(outcomes) > _MOST_WORLDS:
                raise DoubtError(f"one step leaves more than {_MOST_WORLDS} ways open that it may have gone")
        elif name == "TSC_ADJUST":
            for each in worlds:
                rules.host_write_adjust(each, number, value)
        else:
            for each in worlds:
                _write_other(rules, each, number, name, value, guest=False)
                if name == "TSC_DEADLINE":
                    timer.write_deadline(rules, each, each.vcpus[number], value, action.moment.tsc)
    return outcomes + [Outcome(each, (None,) * len(names)) for each in worlds]


def _write_other(rules: Rules, world: World, number: int, name: str, value: int, *, guest: bool) -> None:
    """A write of an MSR that is neither the TSC nor TSC_ADJUST."""
    if name == steal.STEAL_TIME:
        steal.write(world, number, value)
    elif name.startswith("HV_"):
        rules.write_hyperv_msr(world, world.vcpus[number], name, value, guest=guest)
    elif name in (*SYSTEM_TIME, *WALL_CLOCK):
        rules.write_msr(world, number, name, value, guest=guest)


def get_msrs(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_MSRS."""
    rules.load_vcpu(world, action.operation.vcpu, action.moment)
    vcpu = world.vcpus[action.operation.vcpu]
    answers: dict[str, Answer] = {
        "TSC": reported_tsc(rules, world, vcpu, action),
        "TSC_ADJUST": vcpu.ia32_tsc_adjust_msr,
    }
    names = action.operation.indices
    if world.has_hyperv and rules.policy.honours_writes:
        answers |= _of_hyperv(rules, world, vcpu, action)
    if world.has_steal_time:
        answers[steal.STEAL_TIME] = Quantity(vcpu.steal.msr)
    if world.has_irqchip:
        answers["TSC_DEADLINE"] = timer.read_deadline(rules, world, vcpu, action.moment.tsc)
    predicted = tuple(answers.get(name) for name in names)
    outcome = Outcome(world, predicted)
    if set(names) <= set(answers):
        return [outcome]
    return [outcome, Outcome(world, (), frozenset())] if action.refused else [outcome]


def _of_hyperv(rules: Rules, world: World, vcpu: Vcpu, action: Action) -> dict[str, Answer]:
    """What the MSRs of a Hyper-V say that the host reads: kvm_hv_get_msr_common()."""
    return {
        "HV_REFERENCE_TSC": Quantity(world.hv_tsc_page),
        "HV_TIME_REF_COUNT": rules.reference_time(world, action.moment, rules.drift(world, action.moment)),
        "HV_TSC_FREQUENCY": None if vcpu.host_rate_at else Quantity(vcpu.virtual_tsc_khz * 1000),
    }


def _without_attribute(world: World) -> list[Outcome]:
    """What a kernel that does not know the offset attribute answers, if this one may be such."""
    if world.has_attribute is True:
        return []
    absent = world if world.has_attribute is False else world.fork()
    absent.has_attribute = False
    return [Outcome(absent, (None,), UNKNOWN)]


def set_tsc_offset(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: kvm_arch_tsc_set_attr()."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    (offset,) = action.written or (0,)
    outcomes = _without_attribute(world)
    if world.has_attribute is not False:
        world.has_attribute = True
        outcomes += [
            Outcome(each, (None,)) for each in rules.set_offset(world, number, offset, action.moment)
        ]
    return outcomes


def get_tsc_offset(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: kvm_arch_tsc_get_attr()."""
    rules.load_vcpu(world, action.operation.vcpu, action.moment)
    outcomes = _without_attribute(world)
    if world.has_attribute is not False:
        world.has_attribute = True
        outcomes.append(Outcome(world, (world.vcpus[action.operation.vcpu].l1_tsc_offset,)))
    return outcomes


def get_tsc_scale(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_SCALE: l1_tsc_scaling_ratio, if there is TSC scaling."""
    number, outcomes = action.operation.vcpu, []
    rules.load_vcpu(world, number, action.moment)
    if world.has_scale is not True:
        absent = world.fork()
        absent.has_scale = False
        outcomes.append(Outcome(absent, (None, None), UNKNOWN))
    if world.has_scale is False:
        return outcomes
    world.has_scale = True
    if not rules.policy.honours_writes:
        refused = Outcome(world.fork(), (None, None), UNKNOWN, elsewhere=True)
        return [*outcomes, refused, Outcome(world, (None, None))]
    for bits in (0, 32, 48) if world.fraction_bits is None else (world.fraction_bits,):
        each = world.fork()
        each.fraction_bits, vcpu = bits, each.vcpus[number]
        if not bits or vcpu.ratio == 0:
            outcomes.append(Outcome(each, (None, None), UNKNOWN))
            continue
        ratio = 1 << bits if vcpu.ratio is None else vcpu.ratio
        around = Interval(ratio - vcpu.ratio_slack, ratio + vcpu.ratio_slack)
        outcomes.append(Outcome(each, (Within(around, exact=ratio), Quantity(bits))))
    return outcomes


def set_tsc_khz(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_TSC_KHZ of a vCPU: kvm_set_tsc_khz()."""
    number = action.operation.vcpu
    rules.load_vcpu(world, number, action.moment)
    (khz,) = action.written
    outcomes = []
    if rules.policy.honours_writes and world.refuses_khz is not False and not world.fraction_bits:
        refused = world.fork()
        refused.refuses_khz, refused.fraction_bits = True, 0
        outcomes.append(Outcome(refused, (None,), REFUSED))
        if world.refuses_khz:
            return outcomes
    world.refuses_khz = False
    if khz == 0:
        # 0 stands for the host's own rate (kvm_arch_vcpu_ioctl, KVM_SET_TSC_KHZ).
        refused = world.fork()
        outcomes += [
            Outcome(each, (None,)) for each in rules.change_to_host_khz(world, number, action.moment)
        ]
        return outcomes if rules.policy.honours_writes else [*outcomes, Outcome(refused, (None,), REFUSED)]
    for bits in rules.too_fast(world, khz):
        other = world.fork()
        other.fraction_bits = bits
        outcomes.append(Outcome(other, (None,), REFUSED))
    for each, accepted in rules.change_tsc_khz(world, number, khz, action.moment):
        outcomes.append(Outcome(each, (None,), OK if accepted else REFUSED))
    return outcomes


def get_tsc_khz(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_TSC_KHZ of a vCPU."""
    rules.load_vcpu(world, action.operation.vcpu, action.moment)
    vcpu = world.vcpus[action.operation.vcpu]
    low, high = rules.khz(vcpu)
    if high >= 2**31 and action.refused:
        # kvm_arch_vcpu_ioctl() keeps them in an int, which becomes some errno or other.
        return [Outcome(world, (), frozenset())]
    if vcpu.host_rate_at and action.written:
        world.learn_rate(vcpu.host_rate_at, action.written[0])
        return [Outcome(world, (Within(Interval(low, high)) if rules.policy.honours_writes else None,))]
    return [Outcome(world, (Quantity(vcpu.virtual_tsc_khz),))]


def set_vm_tsc_khz(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_SET_TSC_KHZ of the VM: older kernels do not know it, newer ones refuse it after the first vCPU."""
    if action.refused and not action.written and (world.default_tsc_khz or 0) >= 2**31:
        # The player asked for the VM's rate, which kvm_arch_vm_ioctl() keeps in an int: it became some errno.
        return [Outcome(world, (), frozenset())]
    refused = Outcome(world.fork(), (None,), UNKNOWN | REFUSED, elsewhere=True)
    if not action.written or (world.vcpus and world.refuses_vm_khz):
        return [refused]
    too_fast = rules.too_fast(world, action.written[0])
    if rules.host.khz_exact and world.fraction_bits in too_fast:
        return [refused]
    # 0 stands for the host's own rate (kvm_arch_vm_ioctl): the next vCPU tells what that is.
    world.default_tsc_khz = action.written[0] or (world.host_khz if rules.host.khz_exact else None)
    world.default_was_set, world.default_is_off = bool(action.written[0]), None
    world.default_is_first = False
    if world.vcpus:
        world.refuses_vm_khz = False
        if not too_fast:  # else it may be refused for that
            refused.world.refuses_vm_khz = True
    return [Outcome(world, (None,)), refused]


def run(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of a guest that reads its TSC."""
    number, outcomes = action.operation.vcpu, []
    rules.load_vcpu(world, number, action.moment)
    timer.forget(world.vcpus[number])
    if not action.samples and world.vcpus[number].l2_offset is not None:
        raise DoubtError("its time was up, and whether L1 or L2 is current is not known")
    world.vcpus[number].l2_offset = None
    if not action.samples:
        # Its time was up, or a signal came; whether that was before the guest began is not known.
        outcomes.append(Outcome(world.fork()))
    for each in rules.enter_guest(world, number, action.moment):
        outcomes.append(Outcome(each, samples(rules, each, each.vcpus[number], action)))
        rules.leave_guest(each, number, certain=action.samples > 0)
    return outcomes


def samples(rules: Rules, world: World, vcpu: Vcpu, action: Action) -> tuple[Answer, ...]:
    """What the guest reads while it runs, or its L2, if that is current."""
    if vcpu.l2_offset is not None:
        of_l1 = _by_rdtsc(rules, world, vcpu, action)
        return tuple([_of_l2(rules, world, vcpu, each, action.moment) for each in of_l1])
    by_rdtsc = _by_rdtsc(rules, world, vcpu, action)
    if vcpu.guest != _READS_BY_RDMSR or vcpu.ratio != 0 or action.samples < 2:
        return by_rdtsc
    # KVM answers an RDMSR itself, by the ratio that it has noted and the CPU does not know.
    answer = None if vcpu.tsc_catchup or not rules.host.stable else reported_tsc(rules, world, vcpu, action)
    return (by_rdtsc[0], answer, *by_rdtsc[2:])


def _by_rdtsc(rules: Rules, world: World, vcpu: Vcpu, action: Action) -> tuple[Answer, ...]:
    """What RDTSC and RDTSCP read."""
    if rules.host.stable or not rules.policy.honours_writes:
        if not vcpu.tsc_catchup:
            if not vcpu.ratio and vcpu.follows:
                # Without TSC scaling the CPU knows no ratio, whatever KVM has noted.
                return (Tsc(vcpu.l1_tsc_offset, None),) * action.samples
            return (reported_tsc(rules, world, vcpu, action),) * action.samples
        seen = rules.guest_tsc(world, vcpu, action.moment.tsc)
        return (Within(seen),) * action.samples
    # With an unstable TSC the offset is set anew at every load. The guest's TSC does not run backwards,
    # unless it is caught up with one that has not wrapped around (catch_up).
    seen, last = rules.guest_tsc(world, vcpu, action.moment.tsc), vcpu.last_guest_tsc
    if vcpu.ratio == 0:
        vcpu.last_guest_tsc = rules.l1_tsc(world, vcpu, action.moment.tsc)
    else:
        if seen.low >= last.low - action.moment.tsc.width:
            seen = Interval(min(last.low, seen.high), seen.high)
        vcpu.last_guest_tsc = seen
    return (Within(seen),) * action.samples


def guest_write(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of a guest that executes WRMSR between two readings of its TSC."""
    if not action.written:
        return [Outcome(world, (), frozenset())]
    number, (value,) = action.operation.vcpu, action.written
    name = action.operation.msr
    rules.load_vcpu(world, number, action.moment)
    outcomes = [Outcome(world.fork(), (None,))] if not action.samples else []
    for each in rules.enter_guest(world, number, action.moment):
        vcpu = each.vcpus[number]
        before = samples(rules, each, vcpu, action)[:1]
        if action.samples == 1:
            outcomes.append(Outcome(each.fork(), (None, *before)))
        last = vcpu.last_guest_tsc
        if name == "TSC":
            rules.guest_write_tsc(each, number, value, action.moment)
        elif name == "TSC_ADJUST":
            rules.guest_write_adjust(each, number, value)
        else:
            _write_other(rules, each, number, name, value, guest=True)
            if name == steal.STEAL_TIME:
                steal.record_of_write(each, number, certain=action.samples > 1)
        # A load between the exit and the next entry may go on from the TSC at the exit: the write is lost.
        reloads = rules.policy.honours_writes and not rules.host.stable
        lost = each.fork() if reloads else None
        after = _after_guest_write(rules, each, vcpu, action)
        if action.samples < 2 and name in (*SYSTEM_TIME, "TSC_ADJUST"):
            outcomes.append(Outcome(each.fork(), (None, *before, *after)[: 1 + action.samples]))
        for again in rules.process_requests(each, number, action.moment):
            own = again.vcpus[number]
            if own.tsc_catchup and rules.host.stable:
                # It was caught up with on its way back into the guest, by the masterclock there is by then.
                after = samples(rules, again, own, action)
            outcomes.append(Outcome(again, (None, *before, *after)[: 1 + action.samples]))
        if lost:
            own = lost.vcpus[number]
            own.last_guest_tsc = last
            rules.go_on_from_last(lost, own, action.moment)
            after = _after_guest_write(rules, lost, own, action)
            outcomes.append(Outcome(lost, (None, *before, *after)[: 1 + action.samples]))
    return outcomes


def _after_guest_write(rules: Rules, world: World, vcpu: Vcpu, action: Action) -> tuple[Answer, ...]:
    if vcpu.tsc_catchup:
        if not rules.host.stable:
            vcpu.last_guest_tsc = rules.l1_tsc(world, vcpu, action.moment.tsc)
        rules.catch_up(world, vcpu, action.moment)
    return samples(rules, world, vcpu, action)


def move_thread(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """sched_setaffinity() of the playing thread."""
    refused = Outcome(world.fork(), (), REFUSED, elsewhere=True)
    if action.written:
        before, world.cpu = action.written[0], action.written[1]
        for vcpu in world.vcpus.values():
            # The first move tells where the thread had been all the time before.
            vcpu.cpu = before if vcpu.cpu == HOME else vcpu.cpu
    return [Outcome(world, (None, None)), refused]


def sleep(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """Time passes."""
    return [Outcome(world)]
