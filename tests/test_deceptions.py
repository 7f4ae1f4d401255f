# SPDX-License-Identifier: GPL-2.0-or-later
"""What might be taken for something else: a fault for a poor host, a part of a trace for the whole."""

import dataclasses
from pathlib import Path

import pytest

from kvmharness.judging import kvm
from kvmharness.judging.judge import judge_scenario
from kvmharness.judging.probe import Probe
from kvmharness.judging.session import Session, settle
from kvmharness.judging.verdict import BY_CONTRACTS, Expectation, Result, Verdict, exit_status
from kvmharness.lab import play as lab_play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import machine
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import FINISHED, Boot
from kvmharness.model.simulate import HOST
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Place
from tests.made_up import play, probe, session

ALL = list(SCENARIOS.values())
IN_THE_LAB = Expectation(may_be_protected=False, stable_tsc=True)


def results(played: Session, expectation: Expectation) -> tuple[Result, ...]:
    return settle(ALL, lambda wanted: played, expectation).results


def test_a_kvm_that_moves_offsets_by_itself_is_at_fault_where_the_tsc_is_stable() -> None:
    played = session(ALL, stable=False)
    assert Verdict.FAIL not in {each.verdict for each in results(played, Expectation())}
    # Also by what the traces say of the place.
    place = Place("k", "amd", "0", may_protect_tscs=False, counts_instructions=True, keeps_tsc_stable=True)
    there = Session.of([dataclasses.replace(each, place=place) for each in played.everything])
    assert results(there, Expectation()) == results(there, IN_THE_LAB)
    found = results(there, IN_THE_LAB)
    assert (found[0].scenario, found[0].verdict) == ("probe", Verdict.FAIL)
    assert exit_status(found) == 1


def test_a_kvm_without_a_masterclock_is_at_fault_where_the_hosts_clock_runs_on_the_tsc() -> None:
    host = dataclasses.replace(HOST, tsc_clocksource=False)
    without = probe(host=host)
    assert kvm.seen(without).divergences == {}
    assert [*kvm.seen(without, IN_THE_LAB).divergences] == ["probe", "probe-hyperv", "probe-xen"]
    assert kvm.seen(probe(), IN_THE_LAB).divergences == {}


def test_a_kvm_without_a_masterclock_is_at_fault_where_the_host_says_that_its_clock_runs_on_the_tsc() -> None:
    without = probe(host=dataclasses.replace(HOST, tsc_clocksource=False))
    for clocksource, found in (("tsc", ["probe", "probe-hyperv", "probe-xen"]), ("hpet", [])):
        said = tuple(dataclasses.replace(each, host={"clocksource": clocksource}) for each in without.traces)
        assert [*kvm.seen(Probe(said)).divergences] == found


def test_only_machines_that_nothing_disturbs_are_known_to_have_a_stable_tsc() -> None:
    stable = {name for name, each in MACHINES.items() if each.keeps_tsc_stable}
    assert stable == {"amd", "amd-early", "intel"}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("expectation", [Expectation(), BY_CONTRACTS], ids=["policy", "contracts"])
def test_a_trace_that_was_cut_off_is_no_success(name: str, expectation: Expectation) -> None:
    scenario = SCENARIOS[name]
    here = kvm.seen(probe(host=scenario.host), expectation)
    trace = play(name, scenario.script, host=scenario.host)
    for length in range(len(trace.events)):
        cut = dataclasses.replace(trace, events=trace.events[:length])
        verdict = judge_scenario(scenario, cut, here).verdict
        assert verdict not in (Verdict.PASS, Verdict.XFAIL), length


@pytest.mark.parametrize("name", ["amd", "amd-smp"])
def test_all_that_one_boot_played_is_of_one_session(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some = ALL[:3]
    monkeypatch.setattr(lab_play, "image_for", lambda *_: b"")
    monkeypatch.setattr(machine, "boot", lambda *_, **__: Boot(FINISHED, "", b"", 1.0))
    monkeypatch.setattr(lab_play, "_read", lambda *_: session(some).everything)
    kernel = Kernel("debian:6.1", "6.1", tmp_path, {})
    twice = [lab_play.play(kernel, MACHINES[name].without_snapshots, some) for _ in range(2)]
    for played in twice:
        assert len({each.place for each in played.everything}) == 1
    # Where no two runs are the same the second is another session.
    places = {played.everything[0].place for played in twice}
    assert len(places) == (1 if MACHINES[name].counts_instructions else 2)
