# SPDX-License-Identifier: GPL-2.0-or-later
"""The worst that a trace file can be made to cost."""

import copy
import json
from collections.abc import Callable

from kvmharness import script
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.model.state import Host
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import to_lines
from tests.made_up import probe
from tests.random_traces import MS, UNSTABLE, Chance, Lines, in_lines


class Tape:
    """Steps that somebody wrote down by hand, on clocks that go on by themselves."""

    def __init__(self, width_ns: int = 500) -> None:
        self.lines: Lines = []
        self.width_ns = width_ns
        self.ns = 3_600 * 10**9

    def step(self, operation: script.Operation, values: list[int], error: str = "") -> None:
        end = self.ns + self.width_ns
        line = {
            "op": script.to_json(operation),
            "tsc": [2 * self.ns, 2 * end],
            "ns": [self.ns, end],
            "values": values,
        }
        self.lines.append(line | ({"errno": error} if error else {}))
        self.ns = end + 500

    def written(self) -> str:
        """The trace behind a probe, as a file."""
        header = {"trace": 1, "scenario": "young-restore", "release": "hostile"}
        lines = [*in_lines(*probe().traces), header, *self.lines, {"end": len(self.lines)}]
        return "".join(json.dumps(line) + "\n" for line in lines)


def straddling(vcpus: int, reads: str, host: Host = HOST) -> str:
    """The longest script there can be, all of whose writes may or may not be attempts to synchronize."""
    chance = Chance(vcpus)
    near = script.Read("w", script.Time(2_000 * MS))
    operations: list[script.Operation] = [
        script.CreateVcpu(vcpu=vcpu, guest="wrmsr-16", label="w") for vcpu in range(vcpus)
    ]
    while len(operations) < script.MAX_STEPS:
        vcpu = chance.randrange(vcpus)
        kind = chance.choice(reads) if reads and not chance.randrange(3) else ""
        operations.append(
            {
                "t": script.GetMsrs(vcpu=vcpu, indices=("TSC",)),
                "o": script.GetTscOffset(vcpu=vcpu),
                "r": script.Run(vcpu=vcpu),
                "c": script.GetClock(),
                "w": script.GuestWrite(vcpu=vcpu, msr="TSC", value=near),
                "a": script.GuestWrite(vcpu=vcpu, msr="TSC_ADJUST", value=77),
            }.get(kind, script.SetMsrs(vcpu=vcpu, msrs=(("TSC", near),), label="w"))
        )
    trace = simulate(
        "young-restore",
        tuple(operations),
        POLICIES["mainline-before-6.7"],
        host,
        pace=lambda operation: Pace(chance.randrange(2_000 * MS), 10, chance.randrange(2_000 * MS), 100),
    )
    return "".join(line + "\n" for each in (*probe(host=host).traces, trace) for line in to_lines(each))


def many_writes_in_one_ioctl(other: str, error: str) -> str:
    """Each of a thousand writes doubles the ways it may have gone, within one step."""
    tape = Tape(500 * MS)
    tape.step(script.CreateVcpu(vcpu=0), [2_000_000])
    value = 0
    for _ in range(20):
        msrs: list[tuple[str, int]] = []
        while len(msrs) < 1_000:
            value += 3_000 * MS if not msrs else 2_000 * MS
            msrs += [("TSC", value), (other, 0)] if other else [("TSC", value)]
        tape.step(script.SetMsrs(vcpu=0, msrs=tuple(msrs)), [each for _, each in msrs], error)
    return tape.written()


def all_at_once(vcpus: int) -> str:
    """Each of the vCPUs may have run or have come too late, again and again."""
    tape = Tape(500 * MS)
    for vcpu in range(vcpus):
        tape.step(script.CreateVcpu(vcpu=vcpu, guest="warp-64"), [2_000_000])
    for _ in range(100):
        tape.step(script.RunTogether(vcpus=tuple(range(vcpus))), [0, 0, 0, 0] * vcpus)
    return tape.written()


def as_many_samples_as_a_file_may_hold() -> str:
    tape = Tape(MS)
    tape.step(script.CreateVcpu(vcpu=0), [2_000_000])
    begin = 2 * tape.ns
    for _ in range(390):
        tape.step(script.Run(vcpu=0), [2 * tape.ns - begin + 2 * MS] * 255)
    return tape.written()


def as_many_failures_as_a_file_may_hold() -> str:
    """For each of them the report says which other policies explain it."""
    before = POLICIES["mainline-before-6.7"]
    failing = in_lines(simulate("young-restore", SCENARIOS["young-restore"].script, before))
    lines = in_lines(*probe(before).traces)
    for number in range(94):
        failing[-2]["values"] = [number]
        lines += copy.deepcopy(failing)
    return "".join(json.dumps(line) + "\n" for line in lines)


def an_offset_of_ever_more_parts() -> str:
    """The guest's writes and the host's take turns, and IA32_TSC_ADJUST remembers them all."""
    tape = Tape()
    tape.step(script.CreateVcpu(vcpu=0, guest="wrmsr-16"), [2_000_000])
    begin, moved = 2 * tape.ns, 0
    for number in range(4_990):
        value = 10_000 * MS * (number + 1)
        tsc = 2 * tape.ns - begin + moved
        tape.step(script.GuestWrite(vcpu=0, msr="TSC", value=value), [value, tsc, value])
        moved = 5_000 * MS * 2 * (number + 3) - (2 * tape.ns - begin)
        tape.step(
            script.SetMsrs(vcpu=0, msrs=(("TSC", 2 * tape.ns - begin + moved),)),
            [2 * tape.ns - begin + moved],
        )
    return tape.written()


WORST: dict[str, Callable[[], str]] = {
    "1 vCPU, no reads": lambda: straddling(1, ""),
    "1 vCPU, runs and clocks": lambda: straddling(1, "rc"),
    "2 vCPUs, no reads": lambda: straddling(2, ""),
    "2 vCPUs, TSCs": lambda: straddling(2, "t"),
    "2 vCPUs, offsets": lambda: straddling(2, "o"),
    "6 vCPUs, everything, unstable": lambda: straddling(6, "torcwa", UNSTABLE),
    "16 vCPUs, no reads": lambda: straddling(16, ""),
    "16 vCPUs, everything": lambda: straddling(16, "torcwa"),
    "16 vCPUs, offsets, unstable": lambda: straddling(16, "o", UNSTABLE),
    "many writes in one ioctl": lambda: many_writes_in_one_ioctl("", ""),
    "a refused write among many": lambda: many_writes_in_one_ioctl("WALL_CLOCK", "EIO"),
    "two vCPUs at once": lambda: all_at_once(2),
    "sixteen vCPUs at once": lambda: all_at_once(16),
    "samples": as_many_samples_as_a_file_may_hold,
    "failures": as_many_failures_as_a_file_may_hold,
    "an offset of many parts": an_offset_of_ever_more_parts,
    "too many characters": lambda: (" " * 900_000 + "{}\n") * 30,
}
