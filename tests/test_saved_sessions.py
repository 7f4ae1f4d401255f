# SPDX-License-Identifier: GPL-2.0-or-later
"""A saved session is judged as it was when it was played: verdicts, reasons, identity and exit status."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.cli import writing
from kvmharness.judging.saved import HOSTS_OWN, file_name, sessions_of
from kvmharness.judging.session import Session, SessionResult, settle
from kvmharness.judging.verdict import Expectation, exit_status
from kvmharness.lab import runs
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import Machine
from kvmharness.model.simulate import HOST
from kvmharness.model.state import Host
from kvmharness.report import KernelReport, Report, render
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.trace import Place, Trace, TraceError, to_lines
from tests.command_line import Capture, one_line, status_of
from tests.made_up import NEVER_SNAPS, on_host, session
from tests.random_traces import BARE, SCALING, UNSTABLE

ALL = list(SCENARIOS.values())
SOME = [SCENARIOS[name] for name in ("old-restore", "young-restore", "qemu-pair-young", "offset-moved")]
Play = Callable[[Sequence[Scenario]], Session]


def in_lab(machine: str) -> Place:
    of = MACHINES[machine]
    return Place(
        "debian:6.1", machine, "a session", of.may_protect_tscs, of.counts_instructions, of.keeps_tsc_stable
    )


def reported(outcome: SessionResult, place: Place, expectation: Expectation) -> dict[str, Any]:
    """What the run reports of a kernel, in JSON."""
    release = outcome.attempts[0].probe.release
    report = KernelReport(
        *(place.kernel, place.machine, release, outcome.results, expectation.name, outcome.identity),
        host=outcome.host,
    )
    (kernel,) = json.loads(render(Report((report,)), "json"))["kernels"]
    assert isinstance(kernel, dict)
    return kernel


def judged(folder: Path, capsys: Capture, *more: str) -> tuple[int, list[dict[str, Any]]]:
    """What `judge` reports of each kernel in a folder, and how it exits."""
    capsys.readouterr()
    status = status_of("judge", "--format", "json", *more, *map(str, sorted(folder.iterdir())))
    return status, json.loads(capsys.readouterr().out)["kernels"]


def by_scenario(kernel: dict[str, Any]) -> dict[str, Any]:
    """A kernel's report with its results by name, and without what a run alone knows: its notes."""
    results = {each["scenario"]: each for each in kernel["results"]}
    return {**kernel, "results": results, "notes": []}


def check(
    place: Place, play: Play, scenarios: Sequence[Scenario], folder: Path, capsys: Capture
) -> SessionResult:
    """Play until settled, save, judge again, compare."""
    expectation = Expectation(may_be_protected=place.may_protect_tscs)
    outcome = settle(scenarios, play, expectation, confirm=not place.counts_instructions)
    writing.save_sessions(outcome.sessions, outcome.attempts, place.kernel, place.machine, folder)
    status, (kernel,) = judged(folder, capsys)
    assert by_scenario(kernel) == by_scenario(reported(outcome, place, expectation))
    assert status == exit_status(outcome.results)
    return outcome


def verdicts(outcome: SessionResult) -> dict[str, str]:
    return {each.scenario: each.verdict.value for each in outcome.results}


# Simulated machines


@pytest.mark.parametrize("policy", ["mainline-6.7", "mainline-before-6.7", "tsc-protected"])
def test_the_catalogue_on_amd_is_judged_as_in_the_run(policy: str, tmp_path: Path, capsys: Capture) -> None:
    place = in_lab("amd")
    outcome = check(place, lambda each: session(each, policy, place=place), ALL, tmp_path, capsys)
    # Nothing protects a TSC in an emulated machine: what ignores writes is at fault.
    assert ("FAIL" in verdicts(outcome).values()) is (policy != "mainline-6.7")


@pytest.mark.parametrize(
    ("machine", "host"),
    [("intel", SCALING), ("amd-smp", HOST), ("amd-unstable", UNSTABLE), ("amd", BARE)],
)
@pytest.mark.parametrize("policy", ["mainline-6.7", "like-xu-v1"])
def test_sessions_of_other_machines_are_judged_as_in_the_run(
    machine: str, host: Host, policy: str, tmp_path: Path, capsys: Capture
) -> None:
    place = in_lab(machine)
    check(place, lambda each: session(each, policy, host=host, place=place), SOME, tmp_path, capsys)


def test_what_protects_tscs_may_only_where_that_can_be(tmp_path: Path, capsys: Capture) -> None:
    found = []
    for place, folder in ((on_host(), tmp_path / "here"), (in_lab("amd"), tmp_path / "there")):
        folder.mkdir()
        play = partial(session, policy="tsc-protected", place=place)
        check(place, play, SOME, folder, capsys)
        found.append(judged(folder, capsys)[0])
    assert found == [4, 1]


# In real time a failure has to come twice


def one_after_the_other(*policies: Any) -> Play:
    """A host that plays by one rule after the other."""
    left = iter(policies)

    def play(scenarios: Sequence[Scenario]) -> Session:
        return session(scenarios, next(left), place=on_host())

    return play


@pytest.mark.parametrize(
    ("policies", "verdict"),
    [
        (("mainline-6.7",), "PASS"),
        (("mainline-before-6.7",) * 2, "FAIL"),
        (("mainline-before-6.7", "mainline-6.7"), "INCONCLUSIVE"),
        ((NEVER_SNAPS, "mainline-before-6.7", "mainline-6.7"), "INCONCLUSIVE"),
        (("mainline-before-6.7", NEVER_SNAPS, NEVER_SNAPS), "FAIL"),
    ],
)
def test_a_failure_is_as_sure_as_it_was_in_the_run(
    policies: tuple[Any, ...], verdict: str, tmp_path: Path, capsys: Capture
) -> None:
    scenarios = [SCENARIOS["qemu-pair-young"]]
    outcome = check(on_host(), one_after_the_other(*policies), scenarios, tmp_path, capsys)
    assert len(outcome.attempts) == len(policies)
    assert verdicts(outcome)["qemu-pair-young"] == verdict


def test_what_was_played_again_is_judged_with_all_that_was_played(tmp_path: Path, capsys: Capture) -> None:
    """What fails the first time passes later; the others are not played again."""
    play = one_after_the_other("mainline-before-6.7", "mainline-6.7", "mainline-6.7")
    check(on_host(), play, SOME, tmp_path, capsys)


def test_what_is_judged_by_another_rule_than_the_runs_has_to_fail_twice_too(
    tmp_path: Path, capsys: Capture
) -> None:
    check(on_host(), one_after_the_other("mainline-6.7"), SOME[:2], tmp_path, capsys)
    _, (kernel,) = judged(tmp_path, capsys, "--expect", "mainline-before-6.7")
    found = {each["scenario"]: each["verdict"] for each in kernel["results"]}
    assert found == {"old-restore": "PASS", "young-restore": "INCONCLUSIVE"}


# Two runs are not one


def test_files_of_two_runs_are_judged_apart(tmp_path: Path, capsys: Capture) -> None:
    for scenario in SOME[:2]:
        outcome = settle([scenario], one_after_the_other("mainline-6.7"), confirm=True)
        writing.save_sessions(outcome.sessions, outcome.attempts, "host", HOSTS_OWN, tmp_path)
    status, found = judged(tmp_path, capsys)
    assert status == 0
    assert [[each["scenario"] for each in kernel["results"]] for kernel in found] == [
        ["old-restore"],
        ["young-restore"],
    ]


# Names of files


names = st.text(st.characters(codec=None), min_size=1, max_size=300)


@given(names, st.sampled_from(sorted(MACHINES)), st.sampled_from(sorted(SCENARIOS)))
def test_every_file_system_takes_the_name_of_a_file(kernel: str, machine: str, scenario: str) -> None:
    name = file_name(kernel, machine, scenario)
    assert re.fullmatch("[A-Za-z0-9_][A-Za-z0-9.+_-]*", name)
    assert len(name) <= 255
    assert name.endswith(f".{machine}.{scenario}.jsonl")


@given(st.sets(names | st.sampled_from(["debian:6.1", "debian-6.1", "Debian:6.1", "host", "a/b", "a-b"])))
def test_no_two_kernels_share_the_name_of_a_file_even_where_case_does_not_count(found: set[str]) -> None:
    assert len({file_name(each, "amd", "old-restore").casefold() for each in found}) == len(found)


def test_names_that_are_known_are_readable() -> None:
    assert file_name("debian:6.1", "amd", "old-restore") == "debian-6.1.amd.old-restore.jsonl"
    assert file_name("built:6.1+thread-2", "intel", "x") == "built-6.1+thread-2.intel.x.jsonl"
    assert file_name("host", HOSTS_OWN, "x") == "host.x.jsonl"
    assert file_name("host", "amd", "x") == "host.amd.x.jsonl"
    assert re.fullmatch(r"boot-vmlinuz-[0-9a-f]{8}\.amd\.x\.jsonl", file_name("/boot/vmlinuz", "amd", "x"))


# What no player can have left so


def of(outcome: Session) -> list[Trace]:
    return outcome.everything


@pytest.fixture(scope="module")
def played() -> Session:
    return session(SOME[:2], place=in_lab("amd"))


def forged(played: Session) -> Iterator[tuple[str, list[Trace]]]:
    """What is wrong, and the traces of a file."""
    *probes, one, other = of(played)
    yield "does not begin with a probe", []
    yield "does not begin with a probe", [one, *probes]
    yield "none of a scenario", [*probes]
    yield "none of a scenario", [*probes, *probes]
    yield "without the trace of 'probe'", [*probes[1:], one]
    yield "scenario old-restore twice", [*probes, one, one]
    yield "scenario old-restore twice", [*probes, one, other, one]
    elsewhere = replace(one, place=replace(one.place or in_lab("amd"), session="another"))
    yield "of several sessions", [*probes, elsewhere]
    yield "of several sessions", [*probes, replace(one, place=None)]
    yield "of several sessions", [probes[0], *(replace(each, place=on_host()) for each in probes[1:]), one]
    there = [replace(each, place=in_lab("intel")) for each in of(played)]
    yield "of several kernels or machines", [*of(played), *there]
    yield "of several kernels or machines", [*of(played), *(replace(each, release="7") for each in there)]


def test_traces_that_are_of_no_session_are_refused(played: Session) -> None:
    for complaint, traces in forged(played):
        with pytest.raises(TraceError, match=complaint):
            sessions_of(traces)


def test_a_file_of_no_session_is_one_line_and_status_2(
    played: Session, tmp_path: Path, capsys: Capture
) -> None:
    for number, (complaint, traces) in enumerate(forged(played)):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(f"{line}\n" for each in traces for line in to_lines(each)))
        assert status_of("judge", str(path)) == 2
        assert complaint in one_line(capsys.readouterr().err)


# In the lab


@pytest.mark.parametrize("spec", ["debian:6.1", pytest.param("debian:6.12", marks=pytest.mark.full)])
def test_the_catalogue_played_in_the_lab_is_judged_as_in_the_run(
    kernel: Callable[[str], Kernel], spec: str, tmp_path: Path, capsys: Capture
) -> None:
    compare_with_lab_run(kernel(spec), MACHINES["amd"], tmp_path, capsys)


@pytest.mark.full
@pytest.mark.parametrize("machine", ["amd-smp", "intel", "amd-unstable"])
def test_the_catalogue_played_on_other_machines_is_judged_as_in_the_run(
    kernel: Callable[[str], Kernel], machine: str, tmp_path: Path, capsys: Capture
) -> None:
    compare_with_lab_run(kernel("debian:6.1"), MACHINES[machine], tmp_path, capsys)


def compare_with_lab_run(kernel: Kernel, machine: Machine, folder: Path, capsys: Capture) -> None:
    expectation = Expectation()
    played = runs.play_on(kernel, machine, ALL, expectation)
    writing.save_sessions(played.sessions, played.attempts, kernel.spec, machine.name, folder)
    report = runs.report(kernel, machine, played, expectation)
    (run,) = json.loads(render(Report((report,)), "json"))["kernels"]
    status, (again,) = judged(folder, capsys)
    assert by_scenario(again) == by_scenario(run)
    assert status == exit_status(played.results)
