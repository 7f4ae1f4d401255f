# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios in files: data, no code. JSON, or TOML with the same keys.

    {"scenarios": 1,
     "scenario": [{"name": "mine", "contract": "What userspace is entitled to.",
                   "script": [{"op": "create_vcpu", "vcpu": 0, "guest": "rdtsc-16", "label": "create"}],
                   "claims": [{"claim": "entitled", "text": "...", "rule": "timeline"}]}]}

A scenario may also have source, consequence, needs, lacks, alone, promptly (first, last and within_ns), and
notes: lines for people.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any

from kvmharness import script
from kvmharness.contract import (
    Claim,
    ClockClaim,
    EmptyPageClaim,
    EndClaim,
    EntitledClaim,
    ForwardClaim,
    HostTimeClaim,
    L2RateClaim,
    LineClaim,
    NoStealClaim,
    NoWarpClaim,
    OffsetClaim,
    PageClaim,
    Promptly,
    RateClaim,
    ReadsClaim,
    RealtimeClaim,
    ReferenceClaim,
    RenewedClaim,
    RunnableClaim,
    RunstateClaim,
    RunstateGrowthClaim,
    SameClaim,
    ScaleClaim,
    StealClaim,
    TimeClaim,
    TimerClaim,
    WallClockClaim,
)
from kvmharness.contract.entitled import ENTITLEMENTS
from kvmharness.judging.capabilities import CAPABILITIES
from kvmharness.scenarios.scenario import Scenario
from kvmharness.script import ScriptError

VERSION = 1
MAX_CHARACTERS = 5_000_000
MAX_SCENARIOS = 1_000

CLAIMS: dict[str, type[Claim]] = {
    "offset": OffsetClaim,
    "rate": RateClaim,
    "forward": ForwardClaim,
    "clock": ClockClaim,
    "end": EndClaim,
    "same": SameClaim,
    "scale": ScaleClaim,
    "steal": StealClaim,
    "no-steal": NoStealClaim,
    "runstate": RunstateClaim,
    "runstate-growth": RunstateGrowthClaim,
    "runnable": RunnableClaim,
    "l2-rate": L2RateClaim,
    "reads": ReadsClaim,
    "page": PageClaim,
    "time": TimeClaim,
    "realtime": RealtimeClaim,
    "host-time": HostTimeClaim,
    "line": LineClaim,
    "reference": ReferenceClaim,
    "renewed": RenewedClaim,
    "empty-page": EmptyPageClaim,
    "timer": TimerClaim,
    "wall-clock": WallClockClaim,
    "no-warp": NoWarpClaim,
    "entitled": EntitledClaim,
}
_NAMES = {kind: name for name, kind in CLAIMS.items()}

_TEXTS = ("contract", "source", "consequence")
_KEYS = {"name", *_TEXTS, "needs", "lacks", "alone", "notes", "promptly", "script", "claims"}


class ScenarioFileError(ValueError):
    """A scenario file makes no sense; the text says where."""


def from_text(text: str, known: Mapping[str, Scenario], *, toml: bool = False) -> dict[str, Scenario]:
    """The scenarios of a file, by name. ScenarioFileError where it is none, or a name is `known` already."""
    if len(text) > MAX_CHARACTERS:
        raise ScenarioFileError(f"longer than {MAX_CHARACTERS} characters")
    try:
        data = tomllib.loads(text) if toml else json.loads(text)
    except RecursionError:
        raise ScenarioFileError("nested too deeply") from None
    except ValueError as error:
        raise ScenarioFileError(f"not {'TOML' if toml else 'JSON'}: {error}") from None
    if type(data) is not dict or set(data) != {"scenarios", "scenario"} or data["scenarios"] != VERSION:
        raise ScenarioFileError(f"expected scenarios = {VERSION} and a list called scenario, nothing else")
    several = data["scenario"]
    if type(several) is not list or not 0 < len(several) <= MAX_SCENARIOS:
        raise ScenarioFileError(f"scenario: expected a list of 1 to {MAX_SCENARIOS}")
    found: dict[str, Scenario] = {}
    for number, each in enumerate(several, 1):
        try:
            scenario = _scenario(each)
        except (ScriptError, ScenarioFileError) as error:
            raise ScenarioFileError(f"scenario {number}: {error}") from None
        except RecursionError:
            raise ScenarioFileError(f"scenario {number}: nested too deeply") from None
        if scenario.name in found or scenario.name in known:
            raise ScenarioFileError(f"scenario {number}: there is another of the name {scenario.name}")
        found[scenario.name] = scenario
    return found


def to_text(scenarios: Sequence[Scenario], notes: Sequence[str] = ()) -> str:
    """The scenarios as a file; the notes are the first one's."""
    data = [_to_json(each, notes if not number else ()) for number, each in enumerate(scenarios)]
    return json.dumps({"scenarios": VERSION, "scenario": data}, indent=1) + "\n"


def _to_json(scenario: Scenario, notes: Sequence[str]) -> dict[str, Any]:
    data: dict[str, Any] = {"name": scenario.name, **{key: getattr(scenario, key) for key in _TEXTS}}
    if notes:
        data["notes"] = list(notes)
    data |= {key: list(getattr(scenario, key)) for key in ("needs", "lacks")}
    data |= {"alone": scenario.alone, "script": [script.to_json(step) for step in scenario.script]}
    if scenario.promptly:
        data["promptly"] = asdict(scenario.promptly)
    data["claims"] = [_claim_to_json(claim) for claim in scenario.claims]
    return data


def _scenario(data: Any) -> Scenario:
    if type(data) is not dict or not {"name", "contract", "script"} <= set(data) <= _KEYS:
        odd = sorted(set(data) - _KEYS) if type(data) is dict else []
        raise ScenarioFileError(
            f"{str(odd[0])[:60]!a}: unknown" if odd else "expected name, contract and script at least"
        )
    name = data["name"]
    if type(name) is not str or not 0 < len(name) <= 60 or not set(name) <= _LETTERS:
        raise ScenarioFileError(f"name: expected up to 60 of a to z, 0 to 9 and -, got {name!a:.60}")
    texts = {key: _text(key, data.get(key, "")) for key in _TEXTS}
    for line in _list("notes", data.get("notes", [])):
        _text("notes", line)
    needs, lacks = (_capabilities(key, data.get(key, [])) for key in ("needs", "lacks"))
    steps = _list("script", data["script"])
    if not 0 < len(steps) <= script.MAX_STEPS:
        raise ScenarioFileError(f"script: expected 1 to {script.MAX_STEPS} steps")
    operations = tuple(_operation(number, step) for number, step in enumerate(steps, 1))
    labels = {operation.label for operation in operations}
    claims = claims_from_json(data.get("claims", []), labels)
    alone = data.get("alone", False)
    if type(alone) is not bool:
        raise ScenarioFileError("alone: expected true or false")
    return Scenario(
        name=name,
        contract=texts["contract"],
        source=texts["source"],
        consequence=texts["consequence"],
        needs=needs,
        script=operations,
        claims=claims,
        lacks=lacks,
        alone=alone,
        promptly=_promptly(data["promptly"], labels) if "promptly" in data else None,
    )


def claims_from_json(data: Any, labels: set[str]) -> tuple[Claim, ...]:
    """The claims that a list in a file states, on steps with these labels. ScenarioFileError says why not."""
    return tuple(_claim(each, labels) for each in _list("claims", data))


def _promptly(data: Any, labels: set[str]) -> Promptly:
    if type(data) is not dict or set(data) != {"first", "last", "within_ns"}:
        raise ScenarioFileError("promptly: expected first, last and within_ns")
    if not {data["first"], data["last"]} <= labels:
        raise ScenarioFileError("promptly: no step has that label")
    return Promptly(data["first"], data["last"], _field("within_ns", "int", data["within_ns"]))


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def _operation(number: int, data: Any) -> script.Operation:
    try:
        return script.from_json(data)
    except ScriptError as error:
        raise ScenarioFileError(f"step {number}: {error}") from None


def _text(key: str, data: Any) -> str:
    if type(data) is not str or len(data) > 1000 or not data.isprintable():
        raise ScenarioFileError(f"{key}: expected a line of text, got {data!a:.60}")
    return data


def _list(key: str, data: Any) -> list[Any]:
    if type(data) is not list:
        raise ScenarioFileError(f"{key}: expected a list, got {data!a:.60}")
    return data


def _capabilities(key: str, data: Any) -> tuple[str, ...]:
    for name in _list(key, data):
        if type(name) is not str or name not in CAPABILITIES:
            raise ScenarioFileError(f"{key}: no capability is called {name!a:.60}")
    return tuple(data)


def _claim_to_json(claim: Claim) -> dict[str, Any]:
    data: dict[str, Any] = {"claim": _NAMES[type(claim)]}
    for field in fields(claim):
        value = getattr(claim, field.name)
        if value != field.default:
            data[field.name] = list(value) if isinstance(value, tuple) else value
    return data


def _claim(data: Any, labels: set[str]) -> Claim:
    if type(data) is not dict or data.get("claim") not in CLAIMS:
        raise ScenarioFileError(f"claim: expected one of {', '.join(CLAIMS)}")
    kind = CLAIMS[data["claim"]]
    expected = {field.name: field for field in fields(kind)}
    given = {key: value for key, value in data.items() if key != "claim"}
    needed = {name for name, field in expected.items() if field.default is MISSING}
    if not needed <= set(given) <= set(expected):
        odd = sorted(set(given) ^ needed - set(given) & set(expected))
        raise ScenarioFileError(f"claim {data['claim']}: missing or unknown: {', '.join(odd)[:100]}")
    values = {name: _field(name, str(expected[name].type), value) for name, value in given.items()}
    if kind is EntitledClaim and values["rule"] not in ENTITLEMENTS:
        raise ScenarioFileError(f"claim entitled: no rule is called {values['rule']!a:.60}")
    named = {label for key in _LABELS & set(values) for label in _as_tuple(values[key])} - {""}
    if not named <= labels:
        raise ScenarioFileError(f"claim {data['claim']}: no step has the label {min(named - labels)!a:.60}")
    made: Claim = kind(**values)
    return made


# Those fields of claims that hold labels.
_LABELS = {
    *("seen", "expected", "instead", "together", "first", "last", "khz", "stands_since"),
    *("before", "by", "after"),
}


def _as_tuple(value: Any) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,)


def _field(name: str, kind: str, value: Any) -> Any:
    if "tuple[" in kind:
        texts = _list(name, value)
        if not texts and name != "together":
            raise ScenarioFileError(f"{name}: expected a list that is not empty")
        if name == "together" and len(texts) not in (0, 2):
            raise ScenarioFileError("together: expected two labels")
        if "int" in kind:
            return tuple(_field(name, "int", each) for each in texts)
        return tuple(_text(name, each) for each in texts)
    if "bool" in kind:
        if type(value) is not bool and not (value is None and "None" in kind):
            raise ScenarioFileError(f"{name}: expected true or false")
        return value
    if "int" in kind:
        if type(value) is not int or not 0 <= value < 2**63:
            raise ScenarioFileError(f"{name}: expected a whole number")
        return value
    return _text(name, value)
