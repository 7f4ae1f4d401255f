# SPDX-License-Identifier: GPL-2.0-or-later
"""What each policy does in a script, step by step, and where the policies first differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvmharness.model.interval import signed
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import bounds
from kvmharness.model.simulate import HOST, UNPREDICTABLE, Step, simulate
from kvmharness.model.state import Host
from kvmharness.script import Script
from kvmharness.trace import Trace

_KHZ = HOST.khz or 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a script does under some policies that do the same: an effect for each step, and the trace.

    `reasons` say for each step why, with the names of the policies that have this reason.
    """

    policies: list[str]
    effects: tuple[str, ...]
    reasons: list[dict[str, list[str]]]
    trace: Trace


def predict(scenario: str, script: Script, policies: Iterable[Policy], host: Host = HOST) -> list[Prediction]:
    """Play a script under each policy on the simulated clock; policies that do the same share a prediction.

    `host` is what simulate() takes. A policy under which the model does not predict the whole script is in
    none of them.
    """
    predictions: dict[object, Prediction] = {}
    for policy in policies:
        effects: list[str] = []
        reasons: list[str] = []

        def watch(step: Step, effects: list[str] = effects, reasons: list[str] = reasons) -> None:
            effect, reason = _effect(step)
            effects.append(effect)
            reasons.append(reason)

        try:
            trace = simulate(scenario, script, policy, host, watch=watch)
        except UNPREDICTABLE:
            continue
        # Not by the words alone: they round.
        alike = (*effects, *(event.values for event in trace.events))
        prediction = predictions.setdefault(
            alike, Prediction([], tuple(effects), [{} for _ in effects], trace)
        )
        prediction.policies.append(policy.name)
        for known, reason in zip(prediction.reasons, reasons, strict=True):
            if reason:
                known.setdefault(reason, []).append(policy.name)
    return list(predictions.values())


def first_difference(predictions: Sequence[Prediction]) -> int:
    """The first step (from 1) at which the predictions differ; 0 if there is only one."""
    for number, steps in enumerate(zip(*map(_steps, predictions), strict=False), 1):
        if len(set(steps)) > 1:
            return number
    return 0


def _steps(prediction: Prediction) -> list[tuple[object, ...]]:
    events = prediction.trace.events
    return [(effect, event.values) for effect, event in zip(prediction.effects, events, strict=True)]


def _effect(step: Step) -> tuple[str, str]:
    """What a step does in words, and why ("" where there is nothing to say)."""
    event, world = step.event, step.world
    operation = event.operation
    if event.error:
        return event.error, ""
    if effect := operation.effect(event.values):
        return effect, ""
    vcpu = world.vcpus.get(operation.vcpu_numbers[0]) if len(operation.vcpu_numbers) == 1 else None
    # A TSC at another rate than the host's is no time.
    if vcpu is None or (operation.new_khz(event.values) is not None and not operation.creates_vcpu):
        return "", ""
    offset = bounds(vcpu.l1_tsc_offset, world.unknowns)
    if offset is None:
        return "not KVM's", "writes do nothing" if operation.sets_tsc else ""
    if vcpu.ratio is not None:
        return "scaled", ""
    tsc = signed(offset.high + event.bracket.tsc_after)
    ns = tsc * 1_000_000 // _KHZ
    text = f"{ns / 1e6:.3f} ms" if abs(ns) < 10**9 else f"{ns / 1e9:.6f} s"
    reason = vcpu.story.text if vcpu.story.step == world.step else ""
    return text, reason
