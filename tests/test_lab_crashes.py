# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels that crash, or hang, in one ioctl which two scenarios use."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab import build, runs
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import guest
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.scenarios import SCENARIOS
from scripts import kernel_faults
from scripts.kernel_faults import Fault

# They call KVM_KVMCLOCK_CTRL, which no other scenario here does.
CRASHING = ("stopped-is-told", "stopped-stays-told")
HIT_A_BUG = "the kernel hit a bug of its own during {}"
NAMES = ("young-restore", CRASHING[0], "old-restore", CRASHING[1], "qemu-pair-old")


def test_the_player_says_what_it_plays_in_whole_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel keeps back a line without an end until it says something else, which may be never."""
    log = tmp_path / "kmsg"
    monkeypatch.setattr(guest, "_LOG", str(log))
    guest._announce("young-restore")
    assert not log.exists()  # a kernel without printk
    log.touch()
    guest._announce("young-restore")
    assert log.read_bytes() == b"<4>kvmharness plays young-restore\n"


def verdicts(does: str) -> Iterator[Result]:
    """What comes of a kernel that does this in KVM_KVMCLOCK_CTRL."""
    spec, source = kernel_faults.SPEC, build.ground(kernel_faults.SPEC).tree.original(kernel_faults.SOURCE)
    assert source is not None
    old = "vcpu->arch.pvclock_set_guest_stopped_request = true;"
    crash = Fault("crash", "", "kvm_set_guest_paused", old, f"{does} {old}")
    kernel = build.build(spec, [kernel_faults.patch(crash, source)], "test-crash").kernel
    on = replace(AMD.without_snapshots, hang_after_s=20)
    yield from runs.play_on(kernel, on, [SCENARIOS[name] for name in NAMES], Expectation()).results


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize(
    ("does", "verdict", "reason"),
    [
        (
            "BUG();",
            Verdict.FAIL,
            "the kernel hit a bug of its own during {}: kernel BUG at arch/x86/kvm/x86.c:",
        ),
        (
            "*(volatile int *)8 = 0;",
            Verdict.FAIL,
            "the kernel hit a bug of its own during {}: BUG: kernel NULL",
        ),
        ("for (;;) cpu_relax();", Verdict.LOST, "the machine hung: no progress in "),
    ],
)
def test_a_crash_is_the_scenarios_that_cause_it_and_no_others(
    kernel: Callable[[str], Kernel], does: str, verdict: Verdict, reason: str
) -> None:
    kernel(kernel_faults.SPEC)
    found = {each.scenario: each for each in verdicts(does)}
    for name in CRASHING:
        assert found[name].verdict is verdict
        assert found[name].reason.startswith(reason.format(name))
        assert name in found[name].reason
    assert {each.verdict for name, each in found.items() if name not in CRASHING} == {Verdict.PASS}
