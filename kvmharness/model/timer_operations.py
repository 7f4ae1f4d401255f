# SPDX-License-Identifier: GPL-2.0-or-later
"""What operations on the interrupt chip and the local APIC's timer lead to (see `operations`)."""

from kvmharness.model import timer
from kvmharness.model.outcome import OK, REFUSED, Action, Outcome
from kvmharness.model.rules import Rules
from kvmharness.model.state import World
from kvmharness.model.vcpu_operations import samples

_GUEST = "timer-16"


def create_irqchip(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_CREATE_IRQCHIP: kvm_arch_vm_ioctl(), once, and before the first vCPU."""
    if world.has_irqchip:
        return [Outcome(world, (), frozenset({"EEXIST"}))]
    if world.vcpus:
        return [Outcome(world, (), REFUSED)]
    refused = Outcome(world.fork(), (), REFUSED, elsewhere=True)
    world.has_irqchip = True
    return [Outcome(world), refused]


def set_lapic(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_LAPIC, and KVM_SET_LAPIC: kvm_apic_set_state()."""
    number, vcpu = action.operation.vcpu, world.vcpus[action.operation.vcpu]
    if vcpu.guest != _GUEST:
        return [Outcome(world, (), REFUSED)]
    rules.load_vcpu(world, number, action.moment)
    if not world.has_irqchip:
        return [Outcome(world, (), REFUSED)]
    timer.set_lapic(rules, world, vcpu, action.moment.tsc, requested=any(action.written))
    return [Outcome(world, (None, None))]


def get_lapic(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_GET_LAPIC: kvm_apic_get_state()."""
    rules.load_vcpu(world, action.operation.vcpu, action.moment)
    vcpu = world.vcpus[action.operation.vcpu]
    return [Outcome(world, (None, timer.is_requested(vcpu)), OK if world.has_irqchip else REFUSED)]


def await_timer(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of a guest that waits for its timer's interrupt."""
    number, outcomes = action.operation.vcpu, []
    if world.vcpus[number].guest != _GUEST:
        return [Outcome(world, (), REFUSED)]
    rules.load_vcpu(world, number, action.moment)
    for each in rules.enter_guest(world, number, action.moment):
        # Notes the last TSC that the guest had, from which a load goes on where the TSC is unstable.
        samples(rules, each, each.vcpus[number], action)
        timer.arm_by_guest(rules, each, each.vcpus[number], action)
        for outcome in timer.interrupt(rules, each, action):
            rules.leave_guest(outcome.world, number, certain=True)
            outcomes.append(outcome)
    return outcomes
