# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that end before their script does: the player's own way of ending early, or cut off."""

from kvmharness.player.values import NothingReadError, resolve
from kvmharness.script import Khz, Operation, Script, Value, value_to_json
from kvmharness.trace import Event, Trace


def why_cut(trace: Trace, script: Script) -> str:
    """Why a trace that ends before its script must have been cut off; "" where the player ends it so.

    The player goes on after a step that failed. It ends where the next step wants a vCPU that could not be
    created, or a value that no earlier step read (player/stage.py).
    """
    ended, whole = len(trace.events), len(script)
    if ended == whole or not _can_be_played(script[ended], trace.events):
        return ""
    return f"the trace ends after {ended} of {whole} steps, though the next one could have been played"


def _can_be_played(operation: Operation, before: tuple[Event, ...]) -> bool:
    created = {
        number
        for event in before
        if event.operation.creates_vcpu and not event.error
        for number in event.operation.vcpu_numbers
    }
    if not operation.creates_vcpu and not set(operation.vcpu_numbers) <= created:
        return False
    try:
        operation.to_write(_Reads(before))
    except NothingReadError:
        return False
    return True


class _Reads:
    """Whether values stand for anything (script.Resolver), after what was read."""

    here = 0
    run_delay = 0

    def __init__(self, events: tuple[Event, ...]) -> None:
        self._read = {each.operation.label: each.values for each in events if each.values and not each.error}

    def cpu(self, number: int) -> int:
        """Any CPU."""
        return number

    def cycles(self, vcpu: int, value: Value) -> int:
        """The cycles at 1 GHz; NothingReadError where they depend on a step that read nothing."""
        return self.ns(value)

    def ns(self, value: Value) -> int:
        """The ns; NothingReadError as above."""
        return resolve(value_to_json(value), 1_000_000, self._read)

    def vcpu_khz(self, vcpu: int, khz: Khz) -> int:
        """Any rate: a frequency depends on no reading."""
        return 1

    def vm_khz(self, khz: Khz) -> int:
        """Any rate, too."""
        return 1
