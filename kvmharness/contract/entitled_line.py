# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvmclock stays the same function of a vCPU's TSC: which pages of a script have to be on one line.

Two pages of one vCPU are on one line unless something between them sets the vCPU's TSC or rate, or the VM's
clock. Of a page that somebody else may have written to nothing is said.
"""

from collections.abc import Iterator

from kvmharness.contract.line import gap_of_pages, is_stable
from kvmharness.guests.layout import kvmclock_address
from kvmharness.trace import Event


class Lines:
    """The pages of a VM's vCPUs, as they were last read, and the TSCs that the guests read last."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, str], Event] = {}
        self._tscs: dict[int, int] = {}
        self._pages_known = True

    def take(self, event: Event) -> Iterator[tuple[int, str]]:
        """Take a step; the vCPU whose page has left its line, and how far."""
        operation = event.operation
        self._note_addresses(event)
        if operation.sets_clock or operation.host_clock_on_tsc is not None:
            # A page stays as it is until its vCPU next enters its guest.
            self._pages.clear()
            self._tscs.clear()
        for number in operation.vcpu_numbers:
            moves = operation.sets_tsc or operation.value_names == ("khz",)
            if moves or "SYSTEM_TIME" in "".join(operation.value_names):
                self._forget(number)
            elif operation.enters_guest:
                self._tscs.pop(number, None)
                if not event.error and not event.timed_out and event.guest_tsc is not None:
                    self._tscs[number] = event.guest_tsc
        if event.value("version") is not None and self._pages_known:
            yield from self._look(event)

    def _forget(self, number: int) -> None:
        for key in [each for each in self._pages if each[0] == number]:
            self._pages.pop(key)
        self._tscs.pop(number, None)

    def _look(self, event: Event) -> Iterator[tuple[int, str]]:
        (number,) = event.operation.vcpu_numbers
        key = number, event.operation.name
        tsc, before = self._tscs.get(number), self._pages.get(key)
        if tsc is None or not is_stable(event):
            return
        self._pages.setdefault(key, event)
        if before is None:
            return
        gap, slack = gap_of_pages(event, tsc, before)
        if abs(gap) > slack:
            side = "ahead of" if gap > 0 else "behind"
            yield number, f"the page of vCPU {number} tells a time {abs(gap)} ns {side} an earlier one"

    def _note_addresses(self, event: Event) -> None:
        """Whether every page is where nobody else's is."""
        names = (*event.operation.value_names, getattr(event.operation, "msr", ""))
        for place, name in enumerate(names):
            if name.startswith("WALL_CLOCK") or name == "SYSTEM_TIME_OLD":
                self._pages_known = False
            elif name == "SYSTEM_TIME" and len(event.values) > place:
                own = {kvmclock_address(number) + 1 for number in event.operation.vcpu_numbers}
                self._pages_known = self._pages_known and event.values[place] in own
