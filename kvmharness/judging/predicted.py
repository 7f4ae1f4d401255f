# SPDX-License-Identifier: GPL-2.0-or-later
"""Which breaks of a contract are predicted of a kernel: by its policy, and by what its probe found."""

from dataclasses import replace
from itertools import combinations
from typing import Any

from kvmharness.contract import Status
from kvmharness.model.policy import Policy
from kvmharness.model.state import Host
from kvmharness.scenarios import Scenario
from kvmharness.scenarios.predicted import predicted_contract

# What is known of a KVM beside its policy, by its name in Host, in words that follow "if its KVM".
_WORDS = {
    ("marks_xen", True): "marks a Xen's pages, too, when a guest is to learn that it was stopped",
    ("marks_xen", False): "marks only the kvmclock page when a guest is to learn that it was stopped",
    ("keeps_runstate", True): "keeps a runstate's times when the VM's clock is set back",
    ("keeps_runstate", False): "has a runstate's times run back when the VM's clock is set back",
    ("kvm_khz", True): "was loaded before the kernel corrected the rate of its TSC",
}


def predicts_break(scenario: Scenario, policy: Policy, known: Host) -> bool:
    """Whether a kernel with the policy, of which that much is known, may break the contract."""
    return Status.BROKEN in predicted_contract(scenario, policy, _like(known, scenario.host))


def only_if(scenario: Scenario, policy: Policy, known: Host) -> str:
    """What, of all that is known of a KVM, a predicted break depends on; "" where every kernel with the
    policy breaks the contract.

    In words that follow "if its KVM". With another value of that the contract is kept.
    """
    host = _like(known, scenario.host)
    otherwise = _otherwise(host)
    for count in range(1, len(otherwise) + 1):
        # Where each of two facts alone breaks the contract, it is kept only if both are otherwise.
        found = [
            " or ".join(_WORDS[name, bool(getattr(host, name))] for name in names)
            for names in combinations(otherwise, count)
            if _keeps(scenario, policy, replace(host, **{name: otherwise[name] for name in names}))
        ]
        if found:
            return " and ".join(found)
    return ""


def _keeps(scenario: Scenario, policy: Policy, host: Host) -> bool:
    return predicted_contract(scenario, policy, host) == {Status.KEPT}


def _otherwise(host: Host) -> dict[str, Any]:
    """The facts of a KVM that need not be so: what each is, by its name in Host, where it is not so."""
    found: dict[str, Any] = {}
    if host.has_xen:
        found = {"marks_xen": not host.marks_xen, "keeps_runstate": not host.keeps_runstate}
    return {**found, "kvm_khz": None} if host.kvm_khz else found


def _like(known: Host, made_up: Host) -> Host:
    """A machine that has what a scenario needs, with what is known of KVM: of its Xen, and of the rate that
    it noted before the kernel corrected that."""
    noted = made_up.khz and known.kvm_khz and known.khz and made_up.khz * known.kvm_khz // known.khz
    marks, keeps = known.marks_xen is True, known.keeps_runstate is not False
    return replace(made_up, marks_xen=marks, keeps_runstate=keeps, kvm_khz=noted or None)
