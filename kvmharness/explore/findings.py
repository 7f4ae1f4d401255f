# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings: what is kept of a symptom that came again, as a scenario that the other commands take."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from kvmharness import script
from kvmharness.contract import EntitledClaim
from kvmharness.contract.entitled import ENTITLEMENTS
from kvmharness.explore.oracles import COMPLAINT, DIFFERS, ENTITLEMENT, Symptom
from kvmharness.model.interval import TooWideError, signed
from kvmharness.model.judge import Possibility, Replay, judge
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import bounds
from kvmharness.model.state import DoubtError, Host, World
from kvmharness.model.written_rule import rules_of
from kvmharness.scenarios import Scenario
from kvmharness.script import Script
from kvmharness.trace import Trace

_CONTRACTS = {
    DIFFERS: "Two kernels do the same of this script.",
    COMPLAINT: "A kernel plays this script without complaining of itself.",
}
_BY_POLICY = "A kernel does what its policy says, whatever is done to its VM."


@dataclass(frozen=True, slots=True)
class Effort:
    """What a finding took: how long had been played until it was found, in s; the steps of the script that
    showed it; how many scripts were tried to make it small, and how long those were played, in s."""

    until_found_s: float
    steps: int
    tried: int = 0
    shrinking_s: float = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """A symptom, the smallest script that shows it, and what there is to say of it.

    `trace` is of that script, `shared_by` names the known policies under which it is possible, `effort` is
    what it took.
    """

    symptom: Symptom
    script: Script
    trace: Trace
    shared_by: tuple[str, ...]
    state: tuple[str, ...]
    effort: Effort

    @property
    def name(self) -> str:
        """A name for its scenario: the same for the same script and oracle."""
        content = repr(
            (self.symptom.oracle, self.symptom.what, [script.to_json(each) for each in self.script])
        )
        return f"found-{self.symptom.oracle}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def scenario(self, source: str) -> Scenario:
        """It as a scenario; `source` says where it was found."""
        symptom = self.symptom
        entitled = symptom.oracle == ENTITLEMENT
        contract = ENTITLEMENTS[symptom.what] if entitled else _CONTRACTS.get(symptom.oracle, _BY_POLICY)
        rule = (EntitledClaim(text=ENTITLEMENTS[symptom.what], rule=symptom.what),) if entitled else ()
        return Scenario(
            name=self.name,
            contract=f"{contract[0].upper()}{contract[1:]}".rstrip(".") + ".",
            script=self.script,
            claims=rule,
            needs=("stable-tsc",) if entitled else (),
            source=source,
        )

    @property
    def lines(self) -> list[str]:
        """It for a reader: what is wrong, the script, how the model stood at the step."""
        symptom = self.symptom
        where = f" at step {symptom.step} of {len(self.script)}" if symptom.step else ""
        lines = [f"{symptom.oracle} ({symptom.what}){where}", *(f"  {each}" for each in symptom.lines)]
        lines += [f"  {number:3} {step.in_words()}" for number, step in enumerate(self.script, 1)]
        lines += [f"  before it: {each}" for each in self.state]
        shared = ", ".join(self.shared_by) or "no known policy"
        return [*lines, f"  possible under: {shared}"]


def shared_by(trace: Trace, policies: Iterable[Policy], host: Host) -> tuple[str, ...]:
    """The names of the policies under which a trace is possible."""
    return tuple(
        each.name for each in policies if judge(trace, each, host).possibility is Possibility.POSSIBLE
    )


def state_before(trace: Trace, step: int, policy: Policy, host: Host) -> tuple[str, ...]:
    """How the model stood before a step (from 1), in lines; none where it does not say."""
    replay = Replay(rules_of(policy, host), trace.created)
    try:
        for number, event in enumerate(trace.events[: step - 1], 1):
            replay.play(number, event)
            if not replay.worlds:
                return ()
    except (DoubtError, TooWideError):
        return ()
    return _in_words(replay.worlds[0], len(replay.worlds)) if step and replay.worlds else ()


def _in_words(world: World, worlds: int) -> tuple[str, ...]:
    lines = [
        f"user_set_tsc {str(world.user_set_tsc).lower()}, nr_vcpus_matched_tsc {world.nr_vcpus_matched_tsc}, "
        f"masterclock {'on' if world.use_master_clock else 'off'}, last_tsc_khz {world.last_tsc_khz}"
    ]
    for number, vcpu in world.vcpus.items():
        offset = bounds(vcpu.l1_tsc_offset, world.unknowns)
        where = f"offset {signed(offset.low)}" if offset else "an offset that is not known"
        width = f" to {signed(offset.low) + offset.width}" if offset and offset.width else ""
        told = f"; at step {vcpu.story.step} {vcpu.story.text}" if vcpu.story.step else ""
        generation = "in the generation" if vcpu.in_generation else "in no generation"
        lines.append(f"vCPU {number}: {where}{width}, {vcpu.virtual_tsc_khz} kHz, {generation}{told}")
    if worlds > 1:
        lines.append(f"(one of {worlds} ways it may have gone)")
    return tuple(lines)
