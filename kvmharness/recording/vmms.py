# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings as scenarios; and those that come with kvmharness, by name."""

import re
from collections.abc import Container
from pathlib import Path

from kvmharness.recording import contract
from kvmharness.recording.flows import START
from kvmharness.recording.lines import Recording, RecordingError, from_text
from kvmharness.recording.replay import Replay, replay
from kvmharness.scenarios.file import ScenarioFileError, claims_from_json
from kvmharness.scenarios.scenario import Scenario, ScenarioError

FOLDER = Path(__file__).parent / "recorded"
_MOST_VMS = 100


def names() -> list[str]:
    """The recordings that come with kvmharness."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def path_of(file: Path) -> Path:
    """A file; or, if there is none and it has such a name, a recording that comes with kvmharness."""
    return FOLDER / f"{file}.jsonl" if str(file) in names() and not file.exists() else file


def shipped() -> dict[str, Scenario]:
    """The recordings that come with kvmharness as scenarios, by name."""
    found: dict[str, Scenario] = {}
    for name in names():
        found |= scenarios((FOLDER / f"{name}.jsonl").read_text(), name, found)
    return found


def scenarios(text: str, stem: str, known: Container[str] = ()) -> dict[str, Scenario]:
    """A recording's VMs as scenarios, by name; `stem` is its file's name without folder and ending.

    RecordingError where it is none, or nothing in it can be played, or a name is `known` already.
    """
    recording = from_text(text)
    replays = {vm: replay(recording, vm) for vm in recording.vms()[:_MOST_VMS]}
    played = {vm: found for vm, found in replays.items() if found.vcpus and found.steps}
    if not played:
        raise RecordingError("no vCPU is created in it: there is nothing to play")
    name = "recorded-" + (re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40] or "vmm")
    found: dict[str, Scenario] = {}
    for place, (vm, each) in enumerate(_telling(played).items(), 1):
        made = f"{name}-{place}" if len(_telling(played)) > 1 else name
        if made in known:
            raise RecordingError(f"there is another scenario of the name {made}")
        found[made] = _scenario(made, recording, vm, each)
    return found


def _telling(played: dict[int, Replay]) -> dict[int, Replay]:
    """Those VMs in which more was done than to start, if there are any: of a migration, the target."""
    more = {vm: each for vm, each in played.items() if {flow.kind for flow in each.flows} - {START}}
    return more or played


def _scenario(name: str, recording: Recording, vm: int, found: Replay) -> Scenario:
    labels = {operation.label for operation in found.script if operation.label}
    try:
        claims = claims_from_json(list(recording.claims), labels) or contract.claims(found)
        return Scenario(
            name=name,
            contract=recording.contract or contract.sentence(found.flows),
            source=f"recorded from {recording.program(vm) or 'a VMM'}",
            needs=("tsc-write", *(("tsc-scaling",) if found.scaled else ())),
            script=found.script,
            claims=claims,
            alone=any(getattr(claim, "together", ()) for claim in claims),
        )
    except (ScenarioFileError, ScenarioError) as error:
        raise RecordingError(f"line 1: {error}") from None
