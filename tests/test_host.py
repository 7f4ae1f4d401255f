# SPDX-License-Identifier: GPL-2.0-or-later
"""Playing on a host that changes meanwhile: nothing that was played across a change counts."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvmharness import host, trace
from kvmharness.judging.bisection import GOOD, SKIP
from kvmharness.judging.probe import HOST, PROBES
from kvmharness.judging.session import Session
from kvmharness.player import host_reader, host_state
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.trace import Trace
from tests import made_up
from tests.command_line import Capture, one_line, status_of
from tests.made_up_root import CLOCKSOURCE, KVM_NOTE, ONLINE, TOLERANCE, build_id, write
from tests.made_up_root import made_up as make_root

Happening = Callable[[int, str], None]
YOUNG = [SCENARIOS["young-restore"]]


class MadeUpSystem:
    def __enter__(self) -> "MadeUpSystem":
        return self

    def __exit__(self, *_: object) -> None:
        return


class Stage:
    """Stands for this host's KVM. `happens` is called with the session's number and each script's name."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.sessions = 0
        self.played: list[str] = []
        self.happens: Happening = lambda session, name: None

    def play(self, scenarios: Sequence[Scenario]) -> Session:
        return host.play(scenarios, self.root)

    def play_together(
        self, scripts: list[tuple[str, Any]]
    ) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
        for name, _ in scripts:
            self.sessions += name == HOST
            self.happens(self.sessions, name)
            script = PROBES[name] if name in PROBES else SCENARIOS[name].script
            if name not in PROBES or name == HOST:
                self.played.append(name)
            header, *lines, _ = map(json.loads, trace.to_lines(made_up.play(name, script)))
            yield name, header["created"], lines


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(make_root(tmp_path))
    real = host.play
    monkeypatch.setattr(host, "System", MadeUpSystem)
    monkeypatch.setattr(host, "Player", lambda system: made)
    monkeypatch.setattr(host, "play", lambda scenarios, root=made.root: real(scenarios, root))
    return made


def test_on_a_host_that_stays_as_it_is_everything_is_played_once(stage: Stage) -> None:
    session = stage.play(YOUNG)
    assert stage.played == ["probe", "young-restore"]
    assert (session.changed, session.notes) == ("", ())
    assert session.probe.host["clocksource"] == "tsc"
    assert "boot" not in session.probe.host


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        (CLOCKSOURCE, b"hpet\n", "clocksource was tsc and is hpet"),
        (TOLERANCE, b"0\n", "kvm.tsc_tolerance_ppm was 250 and is 0"),
    ],
)
def test_what_was_played_across_a_change_is_played_again_and_that_is_said(
    stage: Stage, tmp_path: Path, path: str, content: bytes, said: str
) -> None:
    def happens(session: int, name: str) -> None:
        if (session, name) == (1, "young-restore"):
            write(tmp_path, path, content)

    stage.happens = happens
    session = stage.play(YOUNG)
    assert stage.played == ["probe", "young-restore"] * 2
    assert session.notes == (f"this host changed during a session, which does not count: {said}",)
    assert session.changed == ""
    assert host_state.changes(session.probe.host, host_reader.read(stage.root)) == []


def test_a_change_that_is_undone_before_the_end_is_seen_between_two_scenarios(
    stage: Stage, tmp_path: Path
) -> None:
    def happens(session: int, name: str) -> None:
        if session == 1:
            write(tmp_path, CLOCKSOURCE, b"hpet\n" if name == "young-restore" else b"tsc\n")

    stage.happens = happens
    session = stage.play([*YOUNG, SCENARIOS["old-restore"], SCENARIOS["write-zero"]])
    assert stage.played[:3] == ["probe", "young-restore", "probe"]
    assert session.notes


def test_a_cpu_that_goes_offline_costs_nothing(stage: Stage, tmp_path: Path) -> None:
    def happens(session: int, name: str) -> None:
        if (session, name) == (1, "old-restore"):
            write(tmp_path, ONLINE, b"0\n")
            # What sched_setaffinity() says of a CPU that is gone.
            raise OSError(22, "Invalid argument")

    stage.happens = happens
    session = stage.play([*YOUNG, SCENARIOS["old-restore"]])
    assert set(session.traces) == {"young-restore", "old-restore"}
    assert session.notes == (
        "this host changed during a session, which does not count: CPUs online was 0-3 and is 0; "
        "CPUs allowed was 0-1,3 and is 0",
    )


def test_an_error_on_a_host_that_did_not_change_is_raised(stage: Stage) -> None:
    def happens(session: int, name: str) -> None:
        raise OSError(22, "Invalid argument")

    stage.happens = happens
    with pytest.raises(OSError, match="Invalid argument"):
        stage.play(YOUNG)
    assert stage.sessions == 1


def always_changing(tmp_path: Path) -> Happening:
    def happens(session: int, name: str) -> None:
        write(tmp_path, CLOCKSOURCE, b"%d\n" % session)

    return happens


def test_a_host_that_does_not_stop_changing_is_given_up_and_nothing_is_judged(
    stage: Stage, tmp_path: Path, capsys: Capture
) -> None:
    stage.happens = always_changing(tmp_path)
    assert status_of("run", "young-restore", "--format", "json") == 4
    report = json.loads(capsys.readouterr().out)
    (kernel,) = report["kernels"]
    (result,) = kernel["results"]
    assert stage.sessions == host.ATTEMPTS
    assert result["verdict"] == "INCONCLUSIVE"
    assert result["reason"] == "this host changed each of 3 times, the last time: clocksource was 2 and is 3"
    assert len(kernel["notes"]) == host.ATTEMPTS


def test_a_step_of_a_bisect_on_a_changing_host_is_skipped_and_never_bad(
    stage: Stage, tmp_path: Path, capsys: Capture
) -> None:
    stage.happens = always_changing(tmp_path)
    for expect in ("mainline-6.7", "mainline-before-6.7"):  # that it breaks young-restore makes no difference
        assert status_of("bisect-step", "--host", "--scenario", "young-restore", "--expect", expect) == SKIP
        said = capsys.readouterr()
        assert one_line(said.out).startswith("skip: young-restore INCONCLUSIVE: this host changed each of 3")
        assert "  | this host changed during a session" in said.err


def test_a_step_on_a_host_that_changed_once_is_judged(stage: Stage, tmp_path: Path, capsys: Capture) -> None:
    def happens(session: int, name: str) -> None:
        if (session, name) == (1, "young-restore"):
            write(tmp_path, CLOCKSOURCE, b"hpet\n")

    stage.happens = happens
    assert status_of("bisect-step", "--host", "--scenario", "young-restore") == GOOD
    said = capsys.readouterr()
    assert one_line(said.out) == "good: young-restore PASS"
    assert one_line(said.err).startswith("  | this host changed during a session")


def test_a_kvm_that_is_loaded_in_the_midst_of_a_run_is_another_kernel(
    stage: Stage, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = host.play

    def loads_another_first(scenarios: Sequence[Scenario]) -> Session:
        # Between two sessions nobody has the device open. What was played is cut off, so it is played again.
        write(tmp_path, KVM_NOTE, build_id(bytes([stage.sessions + 1])))
        made = play(scenarios)
        return replace(made, traces={name: Trace(name, "made-up", ()) for name in made.traces})

    monkeypatch.setattr(host, "play", loads_another_first)
    assert status_of("run", "young-restore", "--format", "json") == 4
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert stage.sessions == 2
    assert kernel["results"][0]["verdict"] == "INCONCLUSIVE"
    assert kernel["build_ids"] == {"kvm": "01"}


def test_reports_and_saved_traces_name_the_build_of_kvm(
    stage: Stage, tmp_path: Path, capsys: Capture
) -> None:
    number = bytes(range(20)).hex()
    folder = tmp_path / "traces"
    saving = ("--save-traces", str(folder))
    assert status_of("run", "young-restore", *saving) == 0
    assert f"Build ids, host on /dev/kvm: kvm.ko {number}" in capsys.readouterr().out
    for form in ("ktap", "json"):
        assert status_of("judge", str(folder / "host.young-restore.jsonl"), "--format", form) == 0
        assert number in capsys.readouterr().out
