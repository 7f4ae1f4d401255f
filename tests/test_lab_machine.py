# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels in emulated machines: the verdicts, and what happens when a machine is lost."""

import re
from collections.abc import Callable

import pytest

from kvmharness.judging import kvm
from kvmharness.judging.identity import Identity
from kvmharness.judging.judge import judge_scenario
from kvmharness.judging.probe import PROBES
from kvmharness.judging.session import SessionResult
from kvmharness.judging.verdict import Expectation, Verdict, exit_status
from kvmharness.lab import play
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import to_lines
from tests.foretold import not_foretold, oddly_skipped

pytestmark = pytest.mark.lab

Find = Callable[[str], Kernel]
Ask = Callable[[str], SessionResult]


def test_debian_6_1_snaps_to_its_own_start_up_value(outcome: Ask) -> None:
    assert not_foretold(outcome("debian:6.1"), "mainline-before-6.7", judged_by="mainline-6.7") == {}
    failed = {each.scenario for each in outcome("debian:6.1").results if each.verdict is Verdict.FAIL}
    assert {"young-restore", "qemu-pair-young", "write-after-run-near", "write-one"} <= failed
    assert exit_status(outcome("debian:6.1").results) == 1


def test_debian_6_12_does_what_mainline_since_6_7_does(outcome: Ask) -> None:
    assert not_foretold(outcome("debian:6.12"), "mainline-6.7") == {}
    assert oddly_skipped(outcome("debian:6.12"), "amd") == set()
    known = {each.scenario for each in outcome("debian:6.12").results if each.verdict is Verdict.XFAIL}
    assert {"restore-one-by-one", "zero-then-young-restore", "qemu-incoming-young"} <= known
    assert exit_status(outcome("debian:6.12").results) == 0


@pytest.mark.parametrize(
    ("spec", "policy"), [("debian:6.1", "mainline-before-6.7"), ("debian:6.12", "mainline-6.7")]
)
def test_a_kernel_judged_by_its_own_policy_fails_nothing(outcome: Ask, spec: str, policy: str) -> None:
    played = outcome(spec)
    for name, session in played.sessions.items():
        here = kvm.seen(session.probe, Expectation(POLICIES[policy]))
        assert here.divergences == {}
        result = judge_scenario(SCENARIOS[name], session.traces[name], here)
        assert result.verdict in (Verdict.PASS, Verdict.XFAIL, Verdict.SKIP), result


def test_kernels_are_identified_by_what_they_do(outcome: Ask) -> None:
    assert outcome("debian:6.12").identity == Identity(("mainline-6.7",))
    # One CPU cannot tell these apart, and the report says what could.
    assert outcome("debian:6.1").identity == Identity(
        ("mainline-before-6.7", "like-xu-v1"),
        "scenario offset-moved would distinguish mainline-before-6.7 from like-xu-v1, but there is only one "
        "CPU to play on: try `lab run --machine amd-smp`",
    )


def test_a_failure_says_what_was_read_what_had_to_be_and_who_would_do_it(outcome: Ask) -> None:
    (young,) = [each for each in outcome("debian:6.1").results if each.scenario == "young-restore"]
    # The write itself, whose effect debugfs shows.
    assert young.step == 4
    assert young.mismatch
    assert young.mismatch.done == "write TSC of vCPU 0"
    # 900 ms at 1 GHz, give or take what the kernel makes of the TSC's rate.
    assert re.fullmatch(r"wrote (899|900)\d{6}, offset -\d+ \(debugfs\)", young.mismatch.observed)
    assert young.mismatch.because.startswith("at step 4 the write takes effect: userspace had not set a TSC ")
    assert young.consistent_with == ("mainline-before-6.7", "like-xu-v1", "clock-series-2026-khz")
    assert "lower than required: the write was overridden" in young.finding


def test_behind_every_step_on_a_vcpu_the_kernel_shows_its_offset(outcome: Ask) -> None:
    for spec in ("debian:6.1", "debian:6.12"):
        # While an L2 is current, its offset is shown, and not looked at.
        traces = [
            session.traces[name]
            for name, session in outcome(spec).sessions.items()
            if "nested" not in SCENARIOS[name].needs
        ]
        shown = [
            trace
            for trace in traces
            if all(len(event.debugfs) == len(event.operation.vcpu_numbers) for event in trace.events)
        ]
        # A VM that is given the descriptor of one that is not quite gone is shown nowhere in debugfs.
        assert len(shown) >= len(traces) * 9 // 10
        assert not any(event.debugfs for each in traces if each not in shown for event in each.events)


def test_two_boots_are_the_same_to_the_byte(kernel: Find) -> None:
    scenarios = [SCENARIOS[name] for name in ("young-restore", "qemu-pair-old", "offset-across-run")]
    booted = AMD.without_snapshots
    sessions = [play.play(kernel("debian:6.12"), booted, scenarios) for _ in range(2)]
    lines = [[list(to_lines(each)) for each in session.everything] for session in sessions]
    assert lines[0] == lines[1]
    assert len(lines[0]) == len(PROBES) + len(scenarios)
