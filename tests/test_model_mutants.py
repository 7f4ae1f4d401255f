# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue has no blind spot that the model knows of: whichever rule is altered, a scenario notices.

What was played is judged by the right policy, with one rule of the model another. Then something must have
become impossible; where it has not, the mutant says why it cannot be seen.
"""

import importlib
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.judging import capabilities
from kvmharness.judging.session import Session, SessionResult
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.model import operations
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy, from_tables
from kvmharness.model.simulate import simulate
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Trace
from tests import mutants_of_devices, mutants_of_time, mutants_of_writes
from tests.mutant import BOOTED, NEW, OLD, Mutant

MUTANTS = (*mutants_of_writes.MUTANTS, *mutants_of_time.MUTANTS, *mutants_of_devices.MUTANTS)

SERIES = Path(__file__).parents[1] / "docs" / "clock-series.toml"
STATED = {**POLICIES, **from_tables(tomllib.loads(SERIES.read_text()), POLICIES)}

Played = list[tuple[Trace, Host]]
Ask = Callable[[str], tuple[Policy, Played]]


def source(module: str) -> Path:
    """Where a module of the model is."""
    return Path(importlib.import_module(f"kvmharness.model.{module}").__file__ or "")


def mutate(mutant: Mutant, patch: pytest.MonkeyPatch) -> None:
    """Put the mutant in the place of the rule, wherever the model has that by its name."""
    original = importlib.import_module(f"kvmharness.model.{mutant.module}")
    path = source(mutant.module)
    text = path.read_text()
    assert text.count(mutant.old) == 1, "this mutant no longer fits the model's source"
    changed = types.ModuleType(original.__name__)
    exec(compile(text.replace(mutant.old, mutant.new), str(path), "exec"), changed.__dict__)
    for name, rule in list(vars(changed).items()):
        if getattr(rule, "__module__", "") != original.__name__:
            continue
        if isinstance(rule, type):
            own = getattr(original, name)
            for method, value in vars(rule).items():
                if isinstance(value, types.FunctionType) and not method.startswith("__"):
                    patch.setattr(own, method, value)
            # What is made or raised there has to be what the others know.
            setattr(changed, name, own)
        else:
            _put_in_place(getattr(original, name), rule, patch)


def _put_in_place(rule: object, changed: object, patch: pytest.MonkeyPatch) -> None:
    """Have every module of the model, and the handlers of operations, use a changed rule."""
    for module in [each for name, each in sys.modules.items() if name.startswith("kvmharness.model.")]:
        for name in [name for name, value in vars(module).items() if value is rule]:
            patch.setattr(module, name, changed)
    for name in [name for name, handler in operations.HANDLERS.items() if handler is rule]:
        patch.setitem(operations.HANDLERS, name, changed)


def noticed(policy: Policy, played: Played) -> list[str]:
    """The scenarios whose traces are impossible, up to the first."""
    for trace, host in played:
        if judge(trace, policy, host).possibility is Possibility.IMPOSSIBLE:
            return [trace.scenario]
    return []


def all_of(session: Session) -> Played:
    """Everything that was played in a session, with what its probe says of the machine."""
    host = capabilities.host_facts(session.probe)
    return [(trace, host) for trace in session.everything]


def made_up_by(policy: Policy) -> Played:
    """What the model itself leaves of every scenario."""
    return [
        (simulate(name, scenario.script, policy, scenario.host), scenario.host)
        for name, scenario in SCENARIOS.items()
    ]


@pytest.fixture(scope="module")
def ask(kernel: Callable[[str], Kernel], outcome: Callable[[str], SessionResult]) -> Ask:
    """What was played on a kernel and machine, each booted once, and the kernel's policy."""
    known: dict[str, tuple[Policy, Played]] = {}

    def played(on: str) -> tuple[Policy, Played]:
        if on not in known:
            known[on] = play_on(on)
        return known[on]

    def play_on(on: str) -> tuple[Policy, Played]:
        if on not in BOOTED:
            policy = STATED[on.removeprefix("made up, ")]
            return policy, made_up_by(policy)
        spec, _, place = on.partition(" on ")
        if on in (OLD, NEW):
            session = next(iter(outcome(spec).sessions.values()))
        else:
            session = play.play(kernel(spec), MACHINES[place], list(SCENARIOS.values()))
        return POLICIES[BOOTED[on]], all_of(session)

    return played


def _marks(on: str) -> list[pytest.MarkDecorator]:
    """Machines other than `amd` are for `make test-full`."""
    return [pytest.mark.full] if on in BOOTED and on not in (OLD, NEW) else []


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.lab
@pytest.mark.parametrize("on", [pytest.param(each, marks=_marks(each)) for each in BOOTED])
def test_nothing_is_impossible_by_the_rules_as_they_are(ask: Ask, on: str) -> None:
    assert noticed(*ask(on)) == []


@pytest.mark.lab
@pytest.mark.parametrize(
    "mutant", [pytest.param(mutant, id=mutant.name, marks=_marks(mutant.on)) for mutant in MUTANTS]
)
def test_a_scenario_notices_that(ask: Ask, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, played = ask(mutant.on)
    mutate(mutant, monkeypatch)
    assert bool(noticed(policy, played)) is not bool(mutant.survives), mutant.survives
