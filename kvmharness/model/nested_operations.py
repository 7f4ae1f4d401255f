# SPDX-License-Identifier: GPL-2.0-or-later
"""What operations on a guest (L1) with a guest of its own (L2) lead to (see `operations`).

KVM adds L2's offset to L1's when L1 enters L2, and again when L1's TSC is written while L2 is current
(kvm_calc_nested_tsc_offset(), kvm_vcpu_write_tsc_offset(); read in Linux 5.10, 6.1 and 6.12).
"""

from kvmharness.model import timer
from kvmharness.model.outcome import REFUSED, Action, Outcome
from kvmharness.model.quantity import Quantity
from kvmharness.model.rules import Rules
from kvmharness.model.state import World
from kvmharness.model.vcpu_operations import guest_write, reported_tsc, samples

_GUEST = "nested-64"


def run_l2(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN until L2 exits: nested_svm_vmrun() or nested_vmx_run(), if L1 is current or enters L2 again."""
    refused, vcpu = _refused(world, action), world.vcpus[action.operation.vcpu]
    if not world.has_nested or vcpu.guest != _GUEST:
        return refused
    rate = action.operation.rate_ppm
    if action.operation.offset is None and rate != vcpu.l2_ppm:
        return [*refused, Outcome(world, (), REFUSED)]
    if rate is not None and world.has_l2_scaling is False:
        return [*refused, Outcome(world, (), REFUSED)]
    if rate is not None and world.has_l2_scaling is None:
        absent = world.fork()
        absent.has_l2_scaling, world.has_l2_scaling = False, True
        refused.append(Outcome(absent, (), REFUSED))
    vcpu.l2_ppm = rate
    rules.load_vcpu(world, action.operation.vcpu, action.moment)
    timer.forget(vcpu)
    if action.written or vcpu.l2_offset is None:
        # What is in L1's VMCB or VMCS counts when L2 is entered.
        vcpu.l2_entered_with = action.written[0] if action.written else vcpu.l2_entered_with
        vcpu.l2_offset = vcpu.l2_entered_with
    outcomes = []
    for each in rules.enter_guest(world, action.operation.vcpu, action.moment):
        own = each.vcpus[action.operation.vcpu]
        (by_rdtsc,) = samples(rules, each, own, action._replace(samples=1))
        by_rdmsr = by_rdtsc
        if own.ratio == 0:
            # As of an RDMSR of L1's: KVM answers by the ratio that it has noted and the CPU does not know.
            known = rules.host.stable and not own.tsc_catchup
            by_rdmsr = reported_tsc(rules, each, own, action, of_l2=True) if known else None
        answers = (Quantity(own.l2_entered_with), by_rdtsc, by_rdmsr)
        outcomes.append(Outcome(each, answers))
        rules.leave_guest(each, action.operation.vcpu, certain=True)
    return [*refused, *outcomes]


def nested_write(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """KVM_RUN of L1 or L2, which executes WRMSR: of L2's, too, the offset of L1 follows.

    kvm_set_msr_common(), not host_initiated.
    """
    refused, vcpu = _refused(world, action), world.vcpus[action.operation.vcpu]
    if not world.has_nested or vcpu.guest != _GUEST:
        return refused
    if action.operation.level == 1:
        vcpu.l2_offset = None
    elif vcpu.l2_offset is None:
        vcpu.l2_offset = vcpu.l2_entered_with
    return [*refused, *guest_write(rules, world, action)]


def _refused(world: World, action: Action) -> list[Outcome]:
    """How a KVM refuses it whose guests cannot have guests, if this may be such; another guest each refuses.

    Where it may be either, `world` is from here on that of a KVM which does not refuse it.
    """
    other = world.vcpus[action.operation.vcpu].guest != _GUEST
    if other or world.has_nested is False:
        return [Outcome(world, (), REFUSED)]
    if world.has_nested:
        return []
    absent = world.fork()
    absent.has_nested, world.has_nested = False, True
    return [Outcome(absent, (), REFUSED)]
