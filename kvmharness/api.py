# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python API: what `import kvmharness` offers. docs/python.md shows each name at work.

The names in __all__ keep their meaning from release to release. Everything else in the package may change.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, uname
from pathlib import Path
from typing import TypeVar

from kvmharness import host
from kvmharness.contract import (
    Claim,
    ClockClaim,
    EndClaim,
    ForwardClaim,
    NoWarpClaim,
    OffsetClaim,
    Promptly,
    RateClaim,
    ReadsClaim,
    SameClaim,
    Status,
)
from kvmharness.judging import saved
from kvmharness.judging.capabilities import CAPABILITIES
from kvmharness.judging.difference import Comparison, Difference, compare_sessions
from kvmharness.judging.identity import Identity
from kvmharness.judging.session import Session, settle
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.kvm import KvmError, KvmUnavailableError, System
from kvmharness.lab import kernels, runs
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import check_emulator
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.predict import Prediction
from kvmharness.model.predict import predict as predict_script
from kvmharness.player.msr import MSRS
from kvmharness.report import KernelReport, Report, render
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.scenarios.scenario import ScenarioError
from kvmharness.trace import Event, Trace, TraceError

T = TypeVar("T")

# How many names a message may suggest.
_MOST_NAMES = 12

__all__ = [
    "MSRS",
    "POLICIES",
    "SCENARIOS",
    "Claim",
    "ClockClaim",
    "Comparison",
    "Difference",
    "EndClaim",
    "Event",
    "ForwardClaim",
    "Identity",
    "JudgedRun",
    "KvmError",
    "KvmUnavailableError",
    "LabError",
    "NoWarpClaim",
    "OffsetClaim",
    "Policy",
    "Prediction",
    "Promptly",
    "RateClaim",
    "ReadsClaim",
    "Result",
    "SameClaim",
    "Scenario",
    "ScenarioError",
    "Session",
    "Status",
    "System",
    "Trace",
    "TraceError",
    "Verdict",
    "compare",
    "load",
    "predict",
    "run_in_lab",
    "run_on_host",
]


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """Scenarios played on one kernel, with all that was measured.

    `results` hold what the probe diverges in, then each scenario's verdict; `sessions` the traces that each
    rests on, by scenario; `identity` the policies that all of them are consistent with. `attempts` are all
    sessions, in the order in which they were played, `host` what the machine was, by name.
    """

    kernel: str
    machine: str
    release: str
    scenarios: tuple[Scenario, ...]
    expectation: Expectation
    results: tuple[Result, ...]
    sessions: Mapping[str, Session]
    identity: Identity | None = None
    notes: tuple[str, ...] = ()
    attempts: tuple[Session, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)

    def result(self, scenario: str) -> Result:
        """A scenario's result; KeyError where it was not played."""
        found = {each.scenario: each for each in self.results}
        return found[scenario]

    def trace(self, scenario: str) -> Trace:
        """A scenario's trace; KeyError where it was not played."""
        return self.sessions[scenario].traces[scenario]

    @property
    def failed(self) -> list[Result]:
        """The results that are FAIL."""
        return [each for each in self.results if each.verdict is Verdict.FAIL]

    def judged_by(self, expect: str | Policy | None) -> "JudgedRun":
        """The same traces, judged by another policy (None: by contracts alone): nothing is played again."""
        expectation = _expectation(expect, self.expectation.may_be_protected)
        if not self.attempts:
            return replace(self, expectation=expectation)
        found = saved.SavedRun(self.attempts).judged(self.scenarios, expectation)
        return replace(
            self,
            expectation=expectation,
            results=self._with_untraced(found.results),
            sessions=found.sessions,
            identity=found.identity,
            host=found.host,
        )

    def _with_untraced(self, judged: Sequence[Result]) -> tuple[Result, ...]:
        """These, in the order of what was played, and what left no trace: a scenario that was lost, or
        crashed the kernel, was so under every policy."""
        names = {each.name for each in self.scenarios}
        found = {each.scenario: each for each in (*self.results, *judged) if each.scenario in names}
        others = [each for each in judged if each.scenario not in names]
        return (*others, *(found[each.name] for each in self.scenarios if each.name in found))

    def report(self, form: str = "text", *, verbose: bool = False) -> str:
        """What the command line would print: "text" (all of it with `verbose`), "ktap" or "json"."""
        of_kernel = KernelReport(
            *(self.kernel, self.machine, self.release, self.results, self.expectation.name),
            *(self.identity, self.notes),
            host=self.host,
            sessions=self.sessions,
        )
        return render(Report((of_kernel,)), form, verbose=verbose)

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Write what was played of each scenario to a folder, a file each; the files' paths. OSError."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        paths = []
        for name in self.sessions:
            paths.append(place / saved.file_name(self.kernel, self.machine, name))
            paths[-1].write_text("".join(f"{line}\n" for line in saved.lines(name, self.attempts)))
        return paths


def run_on_host(
    scenarios: Iterable[Scenario | str] | None = None, expect: str | Policy | None = EXPECTED
) -> JudgedRun:
    """Play scenarios (all, without any) on this host's /dev/kvm, and judge them by a policy or its name, or
    by the contracts alone (None).

    KvmUnavailableError without a /dev/kvm that opens, KvmError where not even a VM can be created.
    """
    wanted = _scenarios(scenarios)
    expectation = _expectation(expect, may_be_protected=True)
    outcome = settle(wanted, host.play, expectation, confirm=True)
    return JudgedRun(
        *("host", saved.HOSTS_OWN, uname().release, wanted, expectation),
        *(outcome.results, outcome.sessions, outcome.identity, outcome.notes, outcome.attempts),
        host=outcome.host,
    )


def run_in_lab(
    kernel: str,
    scenarios: Iterable[Scenario | str] | None = None,
    *,
    machine: str = "amd",
    expect: str | Policy | None = EXPECTED,
) -> JudgedRun:
    """Play scenarios (all, without any) on a kernel in an emulated machine, and judge them.

    `kernel` is what `kvmharness lab run` takes ("debian:6.1", a path, ...), `machine` one of `kvmharness list
    machines`. LabError where the kernel or the machine cannot be had; a lost machine is a verdict.
    ValueError, here and wherever a name is taken, where nothing has that name.
    """
    wanted, on = _scenarios(scenarios), _named(machine, MACHINES, "machine")
    check_emulator(on)
    found = kernels.find(kernel)
    expectation = _expectation(expect, on.may_protect_tscs)
    played = runs.play_on(found, on, wanted, expectation)
    return JudgedRun(
        *(found.spec, on.name, found.release, wanted, expectation),
        *(played.results, played.sessions, played.identity, played.notes, played.attempts),
        host=played.host,
    )


def load(
    paths: Iterable[str | PathLike[str]],
    expect: str | Policy | None = EXPECTED,
    *,
    scenarios: Iterable[Scenario | str] | None = None,
) -> JudgedRun:
    """Read the saved traces of one run and judge them, as where they were played.

    `scenarios` are those that the traces are of, where they are not in the catalogue. OSError; TraceError
    where a file is broken, or they are of several runs.
    """
    known = {each.name: each for each in _scenarios(scenarios)}
    found = saved.runs_of([saved.read(Path(path)) for path in paths])
    if len(found) != 1:
        raise TraceError(f"files of {len(found)} runs, instead of one")
    (read,) = found
    unknown = [name for name in read.scenarios if name not in known]
    if unknown:
        raise TraceError(f"unknown scenario {min(unknown)}")
    played = tuple(known[name] for name in read.scenarios)
    place = read.place
    called = (place.kernel, place.machine) if place else ("saved traces", "")
    expectation = read.expectation(_expectation(expect, may_be_protected=True))
    return JudgedRun(*called, read.release, played, expectation, (), {}, attempts=read.sessions).judged_by(
        expect
    )


def compare(first: JudgedRun, second: JudgedRun) -> Comparison:
    """Where two kernels do something different, scenario by scenario, without any policy."""
    return compare_sessions(first.attempts, second.attempts)


def predict(scenario: Scenario | str, policies: Iterable[Policy | str] | None = None) -> list[Prediction]:
    """What each policy (all, without any) would make of a scenario, on the model alone.

    Policies that do the same share one prediction: `policies` names them, `effects` say step by step what
    each does, `trace` is what a kernel would leave.
    """
    (wanted,) = _scenarios([scenario])
    chosen = [_policy(each) for each in policies or POLICIES.values()]
    return predict_script(wanted.name, wanted.script, chosen, wanted.host)


def _scenarios(scenarios: Iterable[Scenario | str] | None) -> tuple[Scenario, ...]:
    if scenarios is None:
        return tuple(SCENARIOS.values())
    wanted = [_named(each, SCENARIOS, "scenario") if isinstance(each, str) else each for each in scenarios]
    for each in wanted:
        for name in (*each.needs, *each.lacks):
            _named(name, CAPABILITIES, f"capability of scenario {each.name}")
    return tuple(wanted)


def _policy(policy: str | Policy) -> Policy:
    return _named(policy, POLICIES, "policy") if isinstance(policy, str) else policy


def _named(name: str, known: Mapping[str, T], what: str) -> T:
    """What has this name. ValueError where nothing has, with the names that are near."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known) or sorted(known)[:_MOST_NAMES]
    raise ValueError(f"unknown {what} {name!r}: did you mean {' or '.join(near)}?")


def _expectation(expect: str | Policy | None, may_be_protected: bool) -> Expectation:
    if expect is None:
        return Expectation(None, may_be_protected=may_be_protected)
    policy = _policy(expect)
    known: Mapping[str, Policy] = {**POLICIES, policy.name: policy}
    return Expectation(policy, known, may_be_protected)
