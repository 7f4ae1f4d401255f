# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken, truncated and hostile trace files: exit 2 and one line, or a report; never a traceback, never
more than a gibibyte or ten seconds."""

import contextlib
import copy
import errno
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness import script
from kvmharness.capabilities import PROBE
from kvmharness.cli.main import main
from kvmharness.contract import ClockClaim, State, check
from kvmharness.guests import PROGRAMS
from kvmharness.model.arithmetic import cycles
from kvmharness.model.policies import POLICIES
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.model.state import Host
from kvmharness.msr import MSRS
from kvmharness.report import FORMATS
from kvmharness.scenarios import SCENARIOS
from kvmharness.script import Script
from kvmharness.session import PROBE_NAME
from kvmharness.trace import MAX_IN_A_FILE, Bracket, Event, Trace, TraceError, from_lines, to_lines

Chance = random.Random
Lines = list[dict[str, Any]]

# What may become of one file, however hostile it is.
MAX_SECONDS = 10
MAX_MEMORY = 2**30

MS = 1_000_000
UNSTABLE = Host(
    khz=2_000_000, khz_exact=True, stable=False, tsc_clocksource=False, has_attribute=True, fraction_bits=0
)
SCALING = Host(khz=2_000_000, khz_exact=True, tsc_clocksource=True, has_attribute=True, fraction_bits=32)
BARE = Host(khz=2_000_000, khz_exact=True, tsc_clocksource=False, has_attribute=False, fraction_bits=0)
HOSTS = (HOST, HOST, UNSTABLE, SCALING, BARE)

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**48, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 1, 2**63, -(2**63)),
    *(2**64 - 1, 2**64, 10**400, 1e309, float("nan"), 0.5, -0.0, "", "7", None, True, [], {}, "@deep@"),
)
KHZ = (0, 1, 999, 2_000_000, 2**31, 2**32 - 1, 2**32, 2**64 - 1)
LABELS = sorted(
    {each.label for operations in (PROBE, *(s.script for s in SCENARIOS.values())) for each in operations}
)
VALUE_KEYS = ("offset", "value")


class TookTooLongError(BaseException):
    """Not an Exception, so that nothing on the way takes it for a fault of its own."""


# Good traces


def pace(chance: Chance) -> Pace:
    """From a quick machine to one that is held up for seconds."""
    scale = chance.choice((1, 1, 1, 10**3, 10**6, 2 * 10**9))
    before, between, after = (chance.randrange(2_000 * scale) for _ in range(3))
    return Pace(before, between, after, 10_000)


def any_value(chance: Chance, khz: int = 2_000_000) -> script.Value:
    return chance.choice(
        (
            0,
            1,
            chance.randrange(2**64),
            -chance.randrange(2**63),
            script.Time(chance.randrange(-5_000, 5_000) * MS),
            script.Read(chance.choice(LABELS), script.Time(chance.randrange(-3_000, 3_000) * MS)),
            script.Read(chance.choice(LABELS), chance.randrange(3_000 * khz)),
        )
    )


def any_khz(chance: Chance) -> script.Khz:
    return chance.choice(
        (
            0,
            1_000_000,
            2_000_000,
            2_000_100,
            chance.randrange(2**32),
            script.Ppm(chance.randrange(-900_000, 900_000)),
        )
    )


def any_operation(chance: Chance, vcpus: int) -> script.Operation:
    vcpu, label, msrs = chance.randrange(vcpus), chance.choice(LABELS), ("TSC", "TSC", "TSC_ADJUST", *MSRS)
    make: Callable[[], script.Operation] = chance.choice(
        (
            lambda: script.CreateVcpu(vcpu=vcpu, guest=chance.choice(sorted(PROGRAMS)), label=label),
            lambda: script.SetMsrs(
                vcpu=vcpu,
                msrs=tuple((chance.choice(msrs), any_value(chance)) for _ in range(chance.randint(1, 3))),
                label=label,
            ),
            lambda: script.SetMsrs(vcpu=vcpu, msrs=(("TSC", any_value(chance)),), label=label),
            lambda: script.GetMsrs(
                vcpu=vcpu,
                indices=tuple(chance.choice(msrs) for _ in range(chance.randint(1, 3))),
                label=label,
            ),
            lambda: script.GetMsrs(vcpu=vcpu, indices=("TSC",), label=label),
            lambda: script.SetTscOffset(vcpu=vcpu, offset=any_value(chance), label=label),
            lambda: script.GetTscOffset(vcpu=vcpu, label=label),
            lambda: script.SetTscKhz(vcpu=vcpu, khz=any_khz(chance), label=label),
            lambda: script.GetTscKhz(vcpu=vcpu, label=label),
            lambda: script.SetVmTscKhz(khz=any_khz(chance), label=label),
            lambda: script.MoveThread(to=chance.randrange(3), label=label),
            lambda: script.Run(vcpu=vcpu, ns=chance.choice((0, MS)), label=label),
            lambda: script.GuestWrite(
                vcpu=vcpu, msr=chance.choice(msrs), value=any_value(chance), label=label
            ),
            lambda: script.GetClock(label=label),
            lambda: script.Sleep(ns=chance.choice((0, MS, 50 * MS, 2_000 * MS)), label=label),
        )
    )
    return make()


def any_script(chance: Chance) -> Script:
    """A VM with up to sixteen vCPUs, and whatever may be done to it."""
    vcpus = chance.choice((1, 2, 3, 16))
    guest = chance.choice(("rdtsc-16", "wrmsr-16"))
    creation = [script.CreateVcpu(vcpu=vcpu, guest=guest, label=f"create-{vcpu}") for vcpu in range(vcpus)]
    return (*creation, *(any_operation(chance, vcpus) for _ in range(chance.choice((0, 5, 40)))))


def good_trace(chance: Chance, name: str, operations: Script, host: Host, policy: str) -> Trace:
    same = chance.randrange(2)
    return simulate(
        name,
        operations,
        POLICIES[policy],
        host,
        pace=lambda operation: Pace() if same else pace(chance),
        choose=chance.randrange,
    )


def good_file(chance: Chance) -> Lines:
    """The lines of what --save-traces saves: the probe of a KVM and a scenario that was played on it.

    Every third has something else in the scenario's place: only the judge of policies looks into that.
    """
    host, policy = chance.choice(HOSTS), chance.choice(sorted(POLICIES))
    scenario = SCENARIOS[chance.choice(sorted(SCENARIOS))]
    operations = scenario.script if chance.randrange(3) else any_script(chance)
    probe = good_trace(chance, PROBE_NAME, PROBE, host, policy)
    return in_lines(probe, good_trace(chance, scenario.name, operations, host, policy))


def in_lines(*traces: Trace) -> Lines:
    return [json.loads(line) for trace in traces for line in to_lines(trace)]


# What is done to them, as data


def steps(lines: Lines) -> Lines:
    return [line for line in lines if isinstance(line.get("op"), dict)]


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Where the numbers of a line are, as containers and keys."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict | list):
            yield from places(value)
        elif type(value) is int:
            yield data, key


def replace_a_number(lines: Lines, chance: Chance) -> None:
    found = list(places(chance.choice(lines)))
    if found:
        data, key = chance.choice(found)
        data[key] = chance.choice(NUMBERS)


def nudge_a_number(lines: Lines, chance: Chance) -> None:
    found = list(places(chance.choice(lines)))
    if found:
        data, key = chance.choice(found)
        data[key] += chance.choice((-1, 1)) * chance.choice((1, data[key], chance.randrange(10**10)))


def replace_anything(lines: Lines, chance: Chance) -> None:
    line: Any = chance.choice(lines)
    while isinstance(line, dict) and line:
        key = chance.choice(sorted(line))
        if not isinstance(line[key], dict) or chance.randrange(2):
            line[key] = chance.choice(NUMBERS)
            return
        line = line[key]


def remove_a_key(lines: Lines, chance: Chance) -> None:
    line: Any = chance.choice(lines)
    line = line["op"] if isinstance(line.get("op"), dict) and chance.randrange(2) else line
    if line:
        del line[chance.choice(sorted(line))]


def rename_a_key(lines: Lines, chance: Chance) -> None:
    line: Any = chance.choice(lines)
    line = line["op"] if isinstance(line.get("op"), dict) and chance.randrange(2) else line
    if line:
        known = ("op", "tsc", "ns", "values", "errno", "end", "trace", "vcpu", "offset", "plus", "", "label")
        line[chance.choice(known)] = line.pop(chance.choice(sorted(line)))


def substitute_an_operation(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    operation = any_operation(chance, 16)
    line["op"] = script.to_json(operation)
    if chance.randrange(4):
        # As many values as it may have, so that the step is read and judged.
        line["values"] = [
            chance.choice((chance.randrange(2**64), 2_000_000, 0)) for _ in range(count(operation, chance))
        ]


def count(operation: script.Operation, chance: Chance) -> int:
    if isinstance(operation, script.SetMsrs):
        return len(operation.msrs)
    if isinstance(operation, script.GetMsrs):
        return len(operation.indices)
    if isinstance(operation, script.Run):
        return chance.choice((0, 1, 255))
    if isinstance(operation, script.GuestWrite):
        return chance.randint(1, 3)
    return {"get_clock": 2, "move_thread": 2, "sleep": 0}.get(operation.name, 1)


def break_a_bracket(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    clock = chance.choice(("tsc", "ns"))
    bracket = line.get(clock)
    if not isinstance(bracket, list) or len(bracket) != 2 or not all(type(each) is int for each in bracket):
        return
    low, high = bracket
    huge = chance.choice((10**6, 10**9, 2**40, 2**48, 2**62 - 1, 2**62, 2**63))
    line[clock] = chance.choice(
        ([low, low + huge], [low - huge, high], [high, low], [low + huge, high + huge], [0, 0], [low, low])
    )


def widen_all_brackets(lines: Lines, chance: Chance) -> None:
    """So that they straddle, and overlap or not."""
    tsc, ns = (chance.choice((10**5, 10**8, 10**10, 2**45)) for _ in range(2))
    apart = chance.randrange(2)
    shift = [0, 0]
    for line in steps(lines):
        for place, (clock, width) in enumerate((("tsc", tsc), ("ns", ns))):
            bracket = line.get(clock)
            if isinstance(bracket, list) and len(bracket) == 2 and all(type(each) is int for each in bracket):
                line[clock] = [bracket[0] + shift[place], bracket[1] + shift[place] + width]
                shift[place] += width * apart


def change_khz(lines: Lines, chance: Chance) -> None:
    """The rates that are read, of the machine's TSC too; sometimes all alike."""
    alike, chosen = chance.randrange(2), chance.choice(KHZ)
    for line in steps(lines):
        reads = "khz" in str(line["op"].get("op")) or line["op"].get("op") == "create_vcpu"
        if reads and (alike or not chance.randrange(4)):
            line["values"] = [chosen if alike else chance.choice(KHZ)]
            line.pop("errno", None)


def change_a_vcpu(lines: Lines, chance: Chance) -> None:
    found = [line["op"] for line in steps(lines) if "vcpu" in line["op"]]
    if found:
        chance.choice(found)["vcpu"] = chance.choice((*range(18), -1, 2**64))


def change_the_values(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    values = list(line.get("values") or []) if isinstance(line.get("values", []), list) else []
    if values and chance.randrange(2):
        values.pop(chance.randrange(len(values)))
    else:
        values += [chance.choice((0, 1, 2**64 - 1, chance.randrange(2**64)))] * chance.choice(
            (1, 2, 253, 5_000)
        )
    line["values"] = values


def change_a_label(lines: Lines, chance: Chance) -> None:
    if steps(lines):
        operation = chance.choice(steps(lines))["op"]
        operation["label"] = chance.choice((*LABELS, "", "x" * 101, "\ud800", "\n", 7))


def swap_labels(lines: Lines, chance: Chance) -> None:
    """A claim then looks at a step of another kind than it expects."""
    found = [line["op"] for line in steps(lines) if "label" in line["op"]]
    if found:
        one, other = chance.choice(found), chance.choice(found)
        one["label"], other["label"] = other["label"], one["label"]


def change_an_errno(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    line["errno"] = chance.choice((*errno.errorcode.values(), "EINVAL", "ENXIO", "", "EEK", 22, None, ["E"]))
    if chance.randrange(2):
        line["values"] = []


def change_a_header(lines: Lines, chance: Chance) -> None:
    found = [line for line in lines if "scenario" in line]
    if found:
        line = chance.choice(found)
        key, value = chance.choice(
            (
                (
                    "scenario",
                    chance.choice((*SCENARIOS, PROBE_NAME, "", "no-such", "a" * 201, "'\"", 7, None)),
                ),
                ("release", chance.choice(("", "6.1", "\x1b[31m", "a\nb", "\ud800", "a" * 201, [], 1.5))),
                ("trace", chance.choice((0, 1.0, True, 2, "1", None, 2**64))),
            )
        )
        line[key] = value


def delete_lines(lines: Lines, chance: Chance) -> None:
    begin = chance.randrange(len(lines))
    del lines[begin : begin + chance.choice((1, 1, 1, 5, 50))]


def duplicate_lines(lines: Lines, chance: Chance) -> None:
    begin = chance.randrange(len(lines))
    some = copy.deepcopy(lines[begin : begin + chance.choice((1, 1, 5, 50))])
    lines[begin:begin] = some * chance.choice((1, 1, 1, 20))


def swap_lines(lines: Lines, chance: Chance) -> None:
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def insert_steps(lines: Lines, chance: Chance) -> None:
    """Any operation, right behind another one's time, with any outcome."""
    for _ in range(chance.choice((1, 5, 40))):
        place = chance.randrange(len(lines))
        before = lines[place]
        operation = any_operation(chance, 16)
        step: dict[str, Any] = {"op": script.to_json(operation)}
        for clock in ("tsc", "ns"):
            bracket = before.get(clock)
            end = bracket[-1] if isinstance(bracket, list) and bracket and type(bracket[-1]) is int else 10**6
            step[clock] = [end, end]
        values = [
            chance.choice((0, 2_000_000, chance.randrange(2**64))) for _ in range(count(operation, chance))
        ]
        if values:
            step["values"] = values
        if not chance.randrange(4):
            step["errno"] = chance.choice(("EINVAL", "ENXIO", "EEXIST", "EIO"))
        lines.insert(place + 1, step)


def add_another_file(lines: Lines, chance: Chance) -> None:
    more = good_file(chance)
    marks = [place for place, line in enumerate(more) if "end" in line]
    lines += more if chance.randrange(2) else more[marks[0] + 1 :] * chance.choice((1, 1, 10))


def repair_the_end_marks(lines: Lines) -> None:
    """So that a trace of another length is read, and judged."""
    length = 0
    for line in lines:
        if "trace" in line:
            length = 0
        elif "end" in line:
            line["end"] = length
        else:
            length += 1


# After most of these a file is a trace still; after the others it seldom is.
GENTLE: tuple[Callable[[Lines, Chance], None], ...] = (
    nudge_a_number,
    substitute_an_operation,
    break_a_bracket,
    widen_all_brackets,
    change_khz,
    change_a_vcpu,
    swap_labels,
    change_an_errno,
    delete_lines,
    duplicate_lines,
    insert_steps,
    add_another_file,
)
ROUGH: tuple[Callable[[Lines, Chance], None], ...] = (
    replace_a_number,
    replace_anything,
    remove_a_key,
    rename_a_key,
    change_the_values,
    change_a_label,
    change_a_header,
    swap_lines,
)

# What is done to them, as bytes


def flip_bytes(text: bytearray, chance: Chance) -> None:
    for _ in range(chance.randint(1, 4)):
        text[chance.randrange(len(text))] = chance.choice(
            (*b'0123456789[]{},:"ab\\-e. \n', chance.randrange(256))
        )


def delete_bytes(text: bytearray, chance: Chance) -> None:
    begin = chance.randrange(len(text))
    del text[begin : begin + chance.choice((1, 1, 2, 30))]


def insert_bytes(text: bytearray, chance: Chance) -> None:
    some = chance.choice(
        (b"0", b"-", b"e9", b'"', b"{", b"]", b",", b"\\u0000", b"\n", b"\0", b"\xff", b"9" * 5_000)
    )
    place = chance.randrange(len(text) + 1)
    text[place:place] = some


def truncate(text: bytearray, chance: Chance) -> None:
    del text[chance.randrange(len(text)) :]


def duplicate_a_key(text: bytearray, chance: Chance) -> None:
    """The second one holds, for Python."""
    key = chance.choice((b'"op":', b'"tsc":', b'"vcpu":', b'"values":', b'"end":'))
    places = [at for at in range(len(text)) if text.startswith(key, at)]
    if places:
        place = chance.choice(places)
        text[place:place] = key + chance.choice((b"0,", b"[1,2],", b'"run",', b"{},"))


def nest(text: bytearray, chance: Chance) -> None:
    """A value that is nested as deep as the parser may just bear, or deeper."""
    places = [at for at in range(len(text)) if text.startswith(b":", at)]
    if places:
        place, depth = (
            chance.choice(places) + 1,
            chance.choice((50, 300, 900, 950, 970, 980, 990, 1_000, 100_000)),
        )
        begin, end = chance.choice(((b"[", b"]"), (b'{"plus":', b"}"), (b'{"read":"tsc","plus":', b"}")))
        text[place : place + 1] = begin * depth + b"1" + end * depth


def lengthen_a_line(text: bytearray, chance: Chance) -> None:
    place = chance.randrange(len(text))
    text[place:place] = chance.choice((b" ", b"1", b"1,", b"[")) * chance.choice((10_000, 999_000, 1_100_000))


IN_BYTES: tuple[Callable[[bytearray, Chance], None], ...] = (
    flip_bytes,
    flip_bytes,
    delete_bytes,
    insert_bytes,
    truncate,
    duplicate_a_key,
    nest,
    lengthen_a_line,
)


def mutate(lines: Lines, chance: Chance) -> bytes:
    """Something hostile made of a good file."""
    lines = copy.deepcopy(lines)
    how = chance.choice(("gently", "gently", "roughly", "in bytes"))
    for _ in range(0 if how == "in bytes" else chance.randint(1, 4)):
        if lines:
            chance.choice(GENTLE if how == "gently" else GENTLE + ROUGH)(lines, chance)
    if how == "gently" or chance.randrange(2):
        repair_the_end_marks(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines).replace('"@deep@"', "[" * 900 + "]" * 900)
    found = bytearray(text, "ascii")
    if how == "in bytes" and found:
        chance.choice(IN_BYTES)(found, chance)
    return bytes(found)


# Judging them


@pytest.fixture
def within_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The memory there is while a test runs; faults of kvmharness itself come as they are."""
    monkeypatch.setenv("KVMHARNESS_DEBUG", "1")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `kvmharness judge`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), time_limit():
        status = main(["judge", *arguments])
    return status, out.getvalue(), err.getvalue()


def play(seed: int, count: int, path: Path) -> Counter[int]:
    """Judge so many mutations; how many ended with which exit status. What fails is left in `path`."""
    chance, statuses = Chance(seed), Counter[int]()
    files = [good_file(chance) for _ in range(40)]
    for number in range(count):
        if number % 50 == 0:
            files[chance.randrange(len(files))] = good_file(chance)
        path.write_bytes(mutate(chance.choice(files), chance))
        status, out, err = judged("--format", chance.choice(sorted(FORMATS)), str(path))
        statuses[status] += 1
        ends_well = (not out and err.count("\n") == 1) if status == 2 else (out and not err)
        assert ends_well, f"mutation {number} of seed {seed}, see {path}: status {status}, {err!r}"
        assert status in (0, 1, 2, 4), f"mutation {number} of seed {seed}, see {path}: status {status}"
    return statuses


@pytest.mark.usefixtures("within_limits")
def test_mutated_traces_are_judged_or_refused_in_one_line(tmp_path: Path) -> None:
    statuses = play(217423, 3_000, tmp_path / "young-restore.jsonl")
    # All ways to end are reached, or this test would show little.
    assert set(statuses) == {0, 1, 2, 4}
    assert max(statuses.values()) < 2_400


@pytest.mark.full
@pytest.mark.usefixtures("within_limits")
def test_a_hundred_thousand_mutated_traces_are_judged_or_refused_in_one_line(tmp_path: Path) -> None:
    statuses = play(1, 100_000, tmp_path / "young-restore.jsonl")
    assert set(statuses) == {0, 1, 2, 4}


# The worst that a file can be made to cost


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
        probe = simulate(PROBE_NAME, PROBE, POLICIES["mainline-6.7"])
        lines = [*in_lines(probe), header, *self.lines, {"end": len(self.lines)}]
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
    probe = simulate(PROBE_NAME, PROBE, POLICIES["mainline-6.7"], host)
    return "".join(line + "\n" for each in (probe, trace) for line in to_lines(each))


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
    lines = in_lines(simulate(PROBE_NAME, PROBE, before))
    for number in range(99):
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
    "samples": as_many_samples_as_a_file_may_hold,
    "failures": as_many_failures_as_a_file_may_hold,
    "an offset of many parts": an_offset_of_ever_more_parts,
    "too many characters": lambda: (" " * 900_000 + "{}\n") * 30,
}


def judged_alone(path: Path) -> subprocess.CompletedProcess[str]:
    """`kvmharness judge` in a process that has no more memory and time than it may take."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))

    return subprocess.run(
        [sys.executable, "-m", "kvmharness", "judge", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=MAX_SECONDS,
        preexec_fn=limit,
        env={**os.environ, "KVMHARNESS_DEBUG": "1"},
    )


@pytest.mark.full
@pytest.mark.parametrize("name", WORST)
def test_the_worst_files_are_done_with_within_a_gibibyte_and_ten_seconds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "young-restore.jsonl"
    path.write_text(WORST[name]())
    done = judged_alone(path)
    assert done.returncode in (0, 1, 2, 4), done.stderr
    assert done.stderr.count("\n") == (1 if done.returncode == 2 else 0), done.stderr


def test_a_file_holds_no_more_than_so_many_traces_and_characters() -> None:
    empty = list(to_lines(Trace("a", "", ())))
    assert len(list(from_lines(empty * 100))) == 100
    with pytest.raises(TraceError, match="line 201: more than 100 traces in one file"):
        list(from_lines(empty * 101))
    wide = [line + " " * 900_000 for line in empty]
    assert len(list(from_lines(wide * 11))) == 11
    with pytest.raises(TraceError, match="line 23: more than 20000000 characters in one file"):
        list(from_lines(wide * 12))


def test_a_file_holds_no_more_than_so_many_values_and_steps() -> None:
    samples = Event(script.Run(vcpu=0), Bracket(1, 1, 1, 1), (7,) * 255)
    waits = Event(script.Sleep(ns=1), Bracket(1, 1, 1, 1))
    most = MAX_IN_A_FILE["values"] // 255
    assert list(from_lines(to_lines(Trace("a", "", (samples,) * most))))
    with pytest.raises(TraceError, match="more than 100000 values in one file"):
        list(from_lines(to_lines(Trace("a", "", (samples,) * (most + 1)))))
    one, long = (
        list(to_lines(Trace("a", "", (waits,) * 1_000))),
        list(to_lines(Trace("a", "", (waits,) * 10_000))),
    )
    assert len(list(from_lines(one + long))) == 2
    with pytest.raises(TraceError, match="line 11006: more than 11000 steps in one file"):
        list(from_lines(one + long + one))


def test_a_line_that_is_nested_too_deeply_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Newer Pythons parse what is nested deeper than they themselves may call.
    value: Any = 1
    for _ in range(5_000):
        value = {"read": "tsc", "plus": value}
    header = {"trace": 1, "scenario": "a", "release": ""}
    step = {"op": {"op": "set_tsc_offset", "vcpu": 0, "offset": value}, "tsc": [1, 1], "ns": [1, 1]}
    parsed = iter((header, step))
    monkeypatch.setattr("kvmharness.trace.json.loads", lambda line: next(parsed))
    with pytest.raises(TraceError, match="line 2: nested too deeply"):
        list(from_lines(["", ""]))


def test_a_label_on_another_operation_than_the_claims_leaves_it_undecided() -> None:
    claim = ClockClaim("the clock is stable", seen="clock", stable=True)
    odd = Event(script.GetTscKhz(vcpu=0, label="clock"), Bracket(1, 1, 1, 1), (2_000_000,))
    assert check(claim, Trace("a", "", (odd,))).state is State.UNDECIDED


def test_no_khz_are_no_cycles_and_no_endless_loop() -> None:
    with time_limit():
        assert cycles(10**9, 0) == 0


@pytest.mark.parametrize("odd", [None, 0, False, [], {}, 22, "EEK"])
def test_an_errno_is_a_name_or_not_there(odd: Any) -> None:
    step = {"op": {"op": "get_clock"}, "tsc": [1, 1], "ns": [1, 1], "errno": odd}
    with pytest.raises(TraceError, match="no errno is called"):
        list(from_lines(['{"trace":1,"scenario":"a","release":""}', json.dumps(step), '{"end":1}']))
