# SPDX-License-Identifier: GPL-2.0-or-later
"""The claim that a vCPU's TSC is what its scaling ratio makes of the host's, on hand-worked traces."""

from dataclasses import replace

import pytest

from kvmharness.contract import ScaleClaim, Status
from kvmharness.script import GetMsrs, GetTscOffset, GetTscScale, Run
from kvmharness.trace import Bracket, Event, Trace

HALF = 2**31
CLAIM = ScaleClaim(text="the ratio is right", seen=("seen",), ratio="scale", offset="offset")


def found(*events: Event) -> tuple[Status, str]:
    finding = CLAIM.check(Trace("test", "test", events))
    return finding.status, finding.reason


def seen(tsc: int, *, guest: bool = False) -> Event:
    """A TSC that was read while the host's was 10,000 to 10,100."""
    operation = Run(vcpu=0, label="seen") if guest else GetMsrs(vcpu=0, indices=("TSC",), label="seen")
    return Event(operation, Bracket(10_000, 0, 100, 10_100), (tsc % 2**64,))


def scale(ratio: int = HALF, bits: int = 32) -> Event:
    return Event(GetTscScale(vcpu=0, label="scale"), Bracket(1, 1, 2, 2), (ratio, bits))


def offset(value: int) -> Event:
    return Event(GetTscOffset(vcpu=0, label="offset"), Bracket(3, 3, 4, 4), (value % 2**64,))


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("bits", [32, 48])
def test_the_tsc_is_the_hosts_by_the_ratio_plus_the_offset(bits: int, guest: bool) -> None:
    # Half of 10,000 to 10,100, less 6000: it wraps around.
    before = scale(HALF << bits - 32, bits), offset(-6000)
    for tsc in (-1000, -950):
        assert found(*before, seen(tsc, guest=guest)) == (Status.KEPT, "")
    for tsc in (-1001, -949):
        assert found(*before, seen(tsc, guest=guest))[0] is Status.BROKEN


def test_what_is_off_is_said_in_cycles() -> None:
    status, reason = found(scale(), offset(0), seen(5057))
    assert status is Status.BROKEN
    assert reason == (
        "step 'seen' reads a TSC 7 cycles ahead of what the ratio of step 'scale' and the offset of step "
        "'offset' make of the host's"
    )


def test_a_ratio_of_nothing_is_broken() -> None:
    assert found(scale(0), offset(0), seen(5000))[0] is Status.BROKEN
    assert found(scale(1, 64), offset(0), seen(5000))[0] is Status.BROKEN


def test_without_a_ratio_an_offset_or_a_tsc_nothing_is_said() -> None:
    whole = (scale(), offset(0), seen(5000))
    assert found(*whole)[0] is Status.KEPT
    for place in range(3):
        refused = [
            replace(each, values=(), error="ENXIO") if each is whole[place] else each for each in whole
        ]
        assert found(*refused)[0] is Status.UNDECIDED
        assert found(*(each for each in whole if each is not whole[place]))[0] is Status.UNDECIDED
