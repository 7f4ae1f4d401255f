# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is: a script with the contract it puts to the test."""

from dataclasses import dataclass, replace

from kvmharness.contract import Claim, Finding, Promptly, check_all
from kvmharness.model.simulate import HOST
from kvmharness.model.state import Host
from kvmharness.script import Script
from kvmharness.trace import Trace


class ScenarioError(ValueError):
    """A scenario that cannot say anything: the text names it and the label that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A named script and what userspace is entitled to when it is played.

    `contract` says that in one sentence, `source` where it is from, `consequence` what it means for
    people's VMs when a kernel breaks it, `claims` what is checked on the trace. `needs` names the
    capabilities (kvmharness.judging.capabilities) without which the scenario says nothing, and `lacks`
    those with which it does not. `alone` is for a script that would be spoilt by waking up late: nothing
    else is played while it waits. `promptly` is what has to follow soon for any claim to say something.
    ScenarioError where two steps have one label, or a claim names a step that is not there.
    """

    name: str
    contract: str
    script: Script
    claims: tuple[Claim, ...]
    needs: tuple[str, ...] = ()
    source: str = ""
    consequence: str = ""
    lacks: tuple[str, ...] = ()
    alone: bool = False
    promptly: Promptly | None = None

    def __post_init__(self) -> None:
        labels = [step.label for step in self.script if step.label]
        twice = next((label for label in labels if labels.count(label) > 1), "")
        if twice:
            raise ScenarioError(f"scenario {self.name}: two steps have the label {twice!r}")
        for claim in self.claims:
            unknown = next((label for label in claim.labels if label not in labels), "")
            if unknown:
                raise ScenarioError(f"scenario {self.name}: no step has the label {unknown!r} of a claim")

    def findings(self, trace: Trace) -> list[Finding]:
        """Check each claim on a trace."""
        return check_all(self.claims, trace, self.promptly)

    @property
    def host(self) -> Host:
        """A made-up machine that has what the scenario needs, and not what it must not have."""
        stable = "stable-tsc" not in self.lacks
        return replace(
            HOST,
            stable=stable,
            one_tsc="clocksource" in self.needs,
            tsc_clocksource=stable,
            fraction_bits=48 if "tsc-scaling" in self.needs else 0,
            has_scale="tsc-scale-attribute" in self.needs,
            has_clock_guest="clock-guest" in self.needs,
            has_hyperv="hyperv-time" in self.needs,
            has_steal_time=bool({"steal-time", "xen-runstate"} & set(self.needs)),
            has_xen=bool({"xen-time", "xen-runstate"} & set(self.needs)),
        )
