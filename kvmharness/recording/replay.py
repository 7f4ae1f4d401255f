# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording's VM as a script: what it does to guests' time, again, on any kernel.

A saved TSC becomes a reference to the step that read it. One that another VM read (a migration's source), or
nobody, becomes an age: how long its guest had counted. Waits are kept. KVM_RUN becomes a run of a tiny guest,
and vCPUs whose TSCs were written at the same time, by threads of their own, are written together. Left out is
what a tiny guest has no use for: deadlines, LAPICs, MP states, addresses of pages in the guest's memory; what
failed; and what only reads, unless something refers to it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmharness.guests.layout import MAX_VCPUS, kvmclock_address
from kvmharness.recording.flows import Flow, is_offset, put, recognise
from kvmharness.recording.lines import Line, Recording, RecordingError
from kvmharness.script import (
    MAX_SLEEP_NS,
    MAX_STEPS,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscOffset,
    KvmclockCtrl,
    Operation,
    Ppm,
    Read,
    Run,
    SetClock,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    Sleep,
    Time,
    Value,
    WriteTogether,
)
from kvmharness.script.codec import MAX_PPM

# Shorter gaps than this are no waits: the steps themselves take as long.
_LEAST_WAIT_NS = 200_000
# A TSC of less cycles is written as it is, not as a time: 0 and 1, and what else is no saved TSC.
_SMALL = 1000
# How old a saved TSC is taken to be where the recording does not show it.
UNKNOWN_AGE_NS = 100 * 10**9


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the script, and the place of the line it stands for, from 0; None for one of ours."""

    operation: Operation
    place: int | None


@dataclass(slots=True)
class Replay:
    """A VM's lines, what was recognised in them, and its script.

    `khz` is what its vCPUs counted at to begin with. `labels` has for a line the label of its step, `before`
    and `after` for a flow (by its number) the labels that read each vCPU's TSC there. `unknown` has the
    labels of what writes a saved TSC of an age that the recording does not show, `scaled` the vCPUs that
    count at a rate of their own, `vcpus` for each vCPU its number in the script. `ignores_writes`:
    what was read shows that its KVM ignored what was written.
    """

    lines: Sequence[Line]
    flows: list[Flow]
    khz: int
    steps: list[Step] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    before: dict[int, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    after: dict[int, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    scaled: set[int] = field(default_factory=set)
    vcpus: dict[int, int] = field(default_factory=dict)
    ignores_writes: bool = False

    @property
    def script(self) -> tuple[Operation, ...]:
        """Its operations."""
        return tuple(step.operation for step in self.steps)


def replay(recording: Recording, vm: int) -> Replay:
    """The script of one of a recording's VMs. RecordingError where there is none."""
    lines = [line for line in recording.lines if line.vm == vm]
    found = Replay(lines, recognise(lines), _khz(recording, lines))
    origins = _Origins(recording, found.khz)
    found.ignores_writes = origins.ignores_writes
    _Writer(found, origins).write()
    return found


def _khz(recording: Recording, lines: Sequence[Line]) -> int:
    """What KVM_GET_TSC_KHZ said first, of this VM or another, or else what the host's clocks say."""
    for line in (*lines, *recording.lines):
        if line.op == "get_tsc_khz" and not line.error and line.values.get("khz"):
            return line.values["khz"]
    first, last = lines[0], lines[-1]
    elapsed = last.ns[1] - first.ns[0]
    khz = (last.tsc[1] - first.tsc[0]) * 1_000_000 // elapsed if elapsed else 0
    if not khz:
        raise RecordingError(f"VM {lines[0].vm}: too short to tell what its TSC counted at")
    return khz


class _Origins:
    """Where saved values come from that this VM did not read itself."""

    def __init__(self, recording: Recording, khz: int) -> None:
        self._khz = khz
        reads = [line for line in recording.lines if line.op == "get_msrs" and line.msr("TSC") is not None]
        self._readers = {line.msr("TSC"): line for line in reads}
        # Such a KVM ignores what is written: what guests count is the host's TSC.
        self.ignores_writes = bool(reads) and all(
            line.tsc[0] <= (line.msr("TSC") or 0) <= line.tsc[1] for line in reads
        )
        self._begun = {vm: _begun(recording.lines, vm) for vm in {line.vm for line in reads}}

    def age_ns(self, value: int) -> int | None:
        """How long the guest had counted that had this TSC; None if that is not known."""
        if not self.ignores_writes:
            return value * 1_000_000 // self._khz
        reader = self._readers.get(value)
        begun = self._begun[reader.vm] if reader else []
        place = bisect_right(begun, reader.ns[0], key=lambda line: line.ns[1]) if reader else 0
        return (value - begun[place - 1].tsc[1]) * 1_000_000 // self._khz if place else None


def _begun(lines: Sequence[Line], vm: int | None) -> list[Line]:
    """The first write of 0 or 1 of each round in which vCPUs of a VM were written that."""
    found: list[Line] = []
    value, vcpus = None, set[int | None]()
    for line in lines:
        if line.vm == vm and line.op == "set_msrs" and (written := put(line)) in (0, 1):
            if written != value or line.vcpu in vcpus:
                found.append(line)
                value, vcpus = written, set()
            vcpus.add(line.vcpu)
    return found


class _Writer:
    def __init__(self, found: Replay, origins: _Origins) -> None:
        self._found = found
        self._origins = origins
        self._created_at: dict[int, Line] = {}
        self._with_page: set[int] = set()
        # The labels of what read a clock, or a TSC.
        self._clocks: dict[int, str] = {}
        self._reads: dict[int, str] = {}
        self._with_offsets = any(is_offset(line) for line in found.lines)
        self._end_ns = 0
        self._flows_from = {flow.first: number for number, flow in enumerate(found.flows)}
        self._flows_to = {flow.last: number for number, flow in enumerate(found.flows)}
        self._together = _overlapping(found.lines)

    def write(self) -> None:
        """Write the whole script."""
        lines = self._found.lines
        self._end_ns = lines[0].ns[0]
        for place, line in enumerate(lines):
            if place in self._flows_from:
                number = self._flows_from[place]
                self._found.before[number] = self._look(f"before-{number + 1}")
            made = [] if line.error or line.died else self._operations(place, line)
            if made:
                self._wait(line.ns[0])
                self._found.steps += [Step(operation, place) for operation in made]
                if made[-1].label:
                    self._found.labels[place] = made[-1].label
                self._end_ns = max(self._end_ns, line.ns[0] if line.op == "enter" else line.ns[1])
            if len(self._found.steps) > MAX_STEPS:
                raise RecordingError(f"VM {line.vm}: more than {MAX_STEPS} steps")
            if place in self._flows_to:
                number = self._flows_to[place]
                self._found.after[number] = self._look(str(number + 1))
        self._run_all()

    def _wait(self, until_ns: int) -> None:
        gap = until_ns - self._end_ns
        if gap >= _LEAST_WAIT_NS:
            self._found.steps.append(Step(Sleep(ns=min(gap, MAX_SLEEP_NS)), None))

    def _look(self, name: str) -> dict[int, tuple[str, ...]]:
        """Reads every vCPU's TSC: neither way lets a guest run, which might matter to KVM."""
        labels = {}
        for vcpu in self._found.vcpus.values():
            both = GetTscOffset(vcpu=vcpu, label=f"offset-{vcpu}-{name}"), self._reading(vcpu, name)
            self._found.steps += [Step(each, None) for each in both]
            labels[vcpu] = tuple(each.label for each in both)
        return labels

    @staticmethod
    def _reading(vcpu: int, name: str) -> GetMsrs:
        return GetMsrs(vcpu=vcpu, indices=("TSC",), label=f"tsc-{vcpu}-{name}")

    def _run_all(self) -> None:
        """At the end all guests run: what they read belongs to the last flow."""
        last = len(self._found.flows) - 1
        for vcpu in self._found.vcpus.values():
            step = Run(vcpu=vcpu, label=f"guest-{vcpu}")
            self._found.steps.append(Step(step, None))
            if last >= 0 and vcpu in self._found.after.get(last, {}):
                self._found.after[last][vcpu] += (step.label,)

    def _operations(self, place: int, line: Line) -> list[Operation]:
        if line.op == "create_vcpu" and line.vcpu is not None:
            return self._create(line)
        if line.vcpu is not None and line.vcpu not in self._found.vcpus:
            return []  # of a vCPU that was there before the recording
        write = getattr(self, f"_{line.op}", None)
        made: list[Operation] = write(place, line) if write else []
        return made

    def _vcpu(self, line: Line) -> int:
        return self._found.vcpus[line.vcpu or 0]

    def _create(self, line: Line) -> list[Operation]:
        number = len(self._found.vcpus)
        if number >= MAX_VCPUS:
            raise RecordingError(f"VM {line.vm}: more than {MAX_VCPUS} vCPUs")
        if (line.vcpu or 0) in self._found.vcpus:
            raise RecordingError(f"VM {line.vm}: vCPU {line.vcpu} is created twice")
        self._found.vcpus[line.vcpu or 0] = number
        self._created_at[number] = line
        made: list[Operation] = [CreateVcpu(vcpu=number, label=f"create-{number}")]
        return (
            [*made, GetTscOffset(vcpu=number, label=f"offset-new-{number}")] if self._with_offsets else made
        )

    def _enter(self, place: int, line: Line) -> list[Operation]:
        return [Run(vcpu=self._vcpu(line), label=f"run-{place + 1}")]

    def _set_tsc_khz(self, place: int, line: Line) -> list[Operation]:
        khz = line.values.get("khz", 0)
        ppm = round((khz / self._found.khz - 1) * 1_000_000)
        if ppm > MAX_PPM:
            raise RecordingError(f"VM {line.vm}: a rate of {khz} kHz")
        far = abs(ppm) > _TOLERATED_PPM
        if line.vcpu is None:
            if far:
                self._found.scaled |= set(range(MAX_VCPUS))
            return [SetVmTscKhz(khz=Ppm(ppm), label=f"khz-{place + 1}")]
        if far:
            self._found.scaled.add(self._vcpu(line))
        return [SetTscKhz(vcpu=self._vcpu(line), khz=Ppm(ppm), label=f"khz-{place + 1}")]

    def _set_msrs(self, place: int, line: Line) -> list[Operation]:
        vcpu, label = self._vcpu(line), f"write-{place + 1}"
        if len(line.msrs) > _MOST_MSRS:
            raise RecordingError(f"VM {line.vm}: {len(line.msrs)} MSRs at once")
        values = tuple(
            (name, self._value(place, line, name, value))
            for name, value in line.msrs
            if name != "TSC_DEADLINE"
        )
        if any(name == "SYSTEM_TIME" and value for name, value in values):
            self._with_page.add(vcpu)
        if place in self._together:
            return self._write_together(place, vcpu, values)
        return [SetMsrs(vcpu=vcpu, msrs=values, label=label)] if values else []

    def _write_together(self, place: int, vcpu: int, values: Sequence[tuple[str, Value]]) -> list[Operation]:
        """The other MSRs; and the last of those who wrote at one time writes all their TSCs."""
        others = tuple((name, value) for name, value in values if name != "TSC")
        made: list[Operation] = [SetMsrs(vcpu=vcpu, msrs=others)] if others else []
        places = self._together[place]
        if place == places[-1]:
            lines = [self._found.lines[each] for each in places]
            written = [
                self._value(each, line, "TSC", put(line) or 0)
                for each, line in zip(places, lines, strict=True)
            ]
            vcpus = tuple(self._vcpu(each) for each in lines)
            made.append(WriteTogether(vcpus=vcpus, values=tuple(written), label=f"write-{place + 1}"))
            for each in places:
                self._found.labels[each] = f"write-{place + 1}"
        return made

    def _value(self, place: int, line: Line, name: str, value: int) -> Value:
        if name.startswith("WALL_CLOCK"):
            return 0
        if name.startswith("SYSTEM_TIME"):
            return kvmclock_address(self._vcpu(line)) + 1 if value & 1 else 0
        if name != "TSC" or value < _SMALL:
            return value
        if value in self._reads:
            return Read(self._reads[value])
        age = self._origins.age_ns(value)
        if age is None:
            self._found.unknown.append(f"write-{place + 1}")
            return Time(UNKNOWN_AGE_NS)
        return self._time(line, age)

    @staticmethod
    def _time(line: Line, ns: int) -> Time:
        if abs(ns) >= 2**63:
            raise RecordingError(f"VM {line.vm}: a time of {abs(ns) // (365 * 86400 * 10**9)} years")
        return Time(ns)

    def _get_msrs(self, place: int, line: Line) -> list[Operation]:
        value = line.msr("TSC")
        if value is None:
            return []
        self._reads[value] = f"read-{place + 1}"
        return [GetMsrs(vcpu=self._vcpu(line), indices=("TSC",), label=f"read-{place + 1}")]

    def _get_clock(self, place: int, line: Line) -> list[Operation]:
        step = GetClock(label=f"clock-{place + 1}")
        self._clocks[line.values.get("clock", 0)] = step.label
        return [step] if self._found.vcpus else []

    def _set_clock(self, place: int, line: Line) -> list[Operation]:
        clock = line.values.get("clock", 0)
        read = self._clocks.get(clock)
        return [
            SetClock(clock=Read(read) if read else self._time(line, clock), label=f"set-clock-{place + 1}")
        ]

    def _kvmclock_ctrl(self, place: int, line: Line) -> list[Operation]:
        if line.vcpu is None:
            return []
        vcpu, made = self._vcpu(line), list[Operation]()
        if vcpu not in self._with_page:  # its guest had switched it on, as the ioctl's success shows
            self._with_page.add(vcpu)
            made.append(SetMsrs(vcpu=vcpu, msrs=(("SYSTEM_TIME", kvmclock_address(vcpu) + 1),)))
        return [*made, KvmclockCtrl(vcpu=vcpu, label=f"stopped-{place + 1}")]

    def _set_device_attr(self, place: int, line: Line) -> list[Operation]:
        """An offset, as the guest's TSC that it gives; the offset at creation says where that begins."""
        if not is_offset(line) or "value" not in line.values:
            return []
        vcpu = self._vcpu(line)
        created = self._created_at[vcpu]
        given = (line.values["value"] + created.tsc[0] + 2**63) % 2**64 - 2**63
        ns = given * 1_000_000 // self._found.khz
        return [
            SetTscOffset(
                vcpu=vcpu, offset=Read(f"offset-new-{vcpu}", Time(ns)), label=f"set-offset-{place + 1}"
            )
        ]


_MOST_MSRS = 100
_TOLERATED_PPM = 250  # KVM's tsc_tolerance_ppm


def _overlapping(lines: Sequence[Line]) -> dict[int, list[int]]:
    """The places of writes of TSCs of different vCPUs at one time, for each of them."""
    found: dict[int, list[int]] = {}
    group: list[int] = []
    end = -1
    for place, line in enumerate(lines):
        if line.op != "set_msrs" or put(line) is None:
            continue
        alone = line.ns[0] > end or line.vcpu in {lines[each].vcpu for each in group}
        group = [place] if alone else [*group, place]
        end = line.ns[1] if alone else max(end, line.ns[1])
        if len(group) > 1:
            found |= dict.fromkeys(group, group)
    return found
