# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VMM is doing: starts, resets, restores, hotplugs, stops, recognised in the lines of one VM.

A VMM gives a vCPU a TSC by a write of MSR_IA32_TSC or by its offset attribute; here both are *puts*. A put of
0 or 1 is that of a vCPU that begins (0 asks KVM to synchronize; QEMU's reset writes 1), any other is of a
saved TSC.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmharness.recording.lines import Line

START, RESET, RESTORE, HOTPLUG, CONTINUE = "start", "reset", "restore", "hotplug", "stop and continue"
# What a vCPU that begins is given.
_BEGINS = (0, 1)


@dataclass(slots=True)
class Flow:
    """A stretch of lines with one purpose.

    `kind` is one of the above. `first` and `last` are the places of its lines among those of the VM, from 0:
    the first and last put of it, or of a hotplug also the vCPU's creation. `puts` has for each vCPU that it
    writes the place of the last put. `by_offset`: its puts are of the attribute.
    """

    kind: str
    first: int
    last: int
    puts: dict[int, int] = field(default_factory=dict)
    by_offset: bool = False

    @property
    def vcpus(self) -> list[int]:
        """Those that it writes, in the order of their last puts."""
        return sorted(self.puts, key=lambda vcpu: self.puts[vcpu])


def put(line: Line) -> int | None:
    """The TSC, in cycles, that a line writes to its vCPU, or the offset; None if it writes neither."""
    if line.error or line.died or line.vcpu is None:
        return None
    if line.op == "set_msrs":
        return line.msr("TSC")
    return line.values.get("value") if is_offset(line) else None


def is_offset(line: Line) -> bool:
    """Whether a line is about the attribute KVM_VCPU_TSC_OFFSET."""
    return line.op.endswith("_device_attr") and (line.values.get("group"), line.values.get("attr")) == (0, 0)


def recognise(lines: Sequence[Line]) -> list[Flow]:
    """The flows of one VM's lines, in their order."""
    reader = _Reader()
    for place, line in enumerate(lines):
        reader.take(place, line)
    return [flow for flow in reader.flows if flow.puts or flow.kind == CONTINUE]


class _Reader:
    def __init__(self) -> None:
        self.flows: list[Flow] = []
        self._current: Flow | None = None
        self._created: set[int] = set()
        self._written: set[int] = set()
        self._ran = False
        self._made: set[int] = set()  # in the current flow
        self._stop: int | None = None  # where a TSC was read first since vCPUs ran

    def take(self, place: int, line: Line) -> None:
        value = put(line)
        if line.op == "create_vcpu" and not line.error and line.vcpu is not None:
            self._create(place, line.vcpu)
        elif value is not None and line.vcpu is not None:
            self._stop = None
            self._put(place, line.vcpu, begins=line.op == "set_msrs" and value in _BEGINS)
            if self._current:
                self._current.by_offset |= is_offset(line)
        elif line.op == "enter":
            self._ran, self._stop = True, None
            if self._current and self._created <= self._written:
                self._current = None
        elif line.op == "get_msrs" and line.msr("TSC") is not None and self._ran and not self._current:
            self._stop = place if self._stop is None else self._stop
        elif line.op == "set_clock" and not line.error and self._stop is not None:
            self.flows.append(Flow(CONTINUE, self._stop, place))
            self._stop = None

    def _create(self, place: int, vcpu: int) -> None:
        self._created.add(vcpu)
        if self._ran or self._written:
            self._open(HOTPLUG, place)
        elif self._current is None:
            self._open(START, place)
        self._made.add(vcpu)

    def _open(self, kind: str, place: int) -> Flow:
        self._current, self._made = Flow(kind, place, place), set()
        self.flows.append(self._current)
        return self._current

    def _put(self, place: int, vcpu: int, *, begins: bool) -> None:
        flow = self._current
        self._written.add(vcpu)
        if begins and (
            flow is None or flow.kind == RESTORE or (flow.kind != RESET and vcpu not in self._made)
        ):
            flow = self._open(RESET, place)
        if not begins and (flow is None or flow.kind != RESTORE or vcpu in flow.puts):
            if flow and flow.kind == RESET:
                # A VMM that resets before it loads does not mean that reset to last.
                flow.kind, flow.puts = RESTORE, {}
            else:
                flow = self._open(RESTORE, place)
        if flow:
            flow.puts[vcpu] = flow.last = place
