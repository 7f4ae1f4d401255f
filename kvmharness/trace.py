# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces: what happened when a script was played, each step between readings of the host's clocks.

A trace file is JSON Lines: a header, one line a step, an end mark. Cycles and ns are whole numbers
up to 2**64 - 1; a reader in another language must not put them into floating point. A file holds
several traces, one behind the other, up to MAX_IN_A_FILE.

    {"trace": 1, "scenario": "young-restore", "release": "6.1.0-56-cloud-amd64", "tool": "0.1.0"}
    {"op": {"op": "sleep", "ns": 50000000}, "tsc": [b, a], "ns": [b, a]}
    {"op": {"op": "get_msrs", ...}, "tsc": [b, a], "ns": [b, a], "values": [51203111]}
    {"op": {"op": "set_tsc_offset", ...}, "tsc": [b, a], "ns": [b, a], "values": [7], "errno": "ENXIO"}
    {"op": {"op": "create_vcpu", ...}, "tsc": [b, a], "ns": [b, a], "values": [2000000], "windows": [[5]]}
    {"end": 4}
"""

import errno
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmharness import __version__, script
from kvmharness.script import Operation, Script, ScriptError

SCHEMA = 1
MAX_LINE = 1_000_000
MAX_WIDTH = 2**62  # of a bracket, in cycles or ns: a century and more

# Of one file, so that nobody's file keeps a judge busy for long: all of the catalogue several times over,
# or the longest script there can be, behind its probe.
MAX_IN_A_FILE = {
    "characters": 20_000_000,
    "traces": 100,
    "steps": script.MAX_STEPS + 1_000,
    "values": 100_000,
}


class TraceError(ValueError):
    """A trace file is broken; the text says at which line and how."""


class Bracket(NamedTuple):
    """Host clocks just before and just after a step.

    `tsc_*` in cycles of the host's TSC, `ns_*` in ns of CLOCK_MONOTONIC_RAW. What the kernel read of
    these clocks in between lies between them, ends included.
    """

    tsc_before: int
    ns_before: int
    ns_after: int
    tsc_after: int

    @property
    def width(self) -> int:
        """How far apart the TSC readings are, in cycles."""
        return self.tsc_after - self.tsc_before


class Window(NamedTuple):
    """What the kernel showed of a vCPU right behind a step, in debugfs.

    Its TSC offset (cycles, modulo 2**64), and its scaling ratio, a fraction of 2**32 (AMD) or 2**48 (Intel):
    None where that was not looked at, or there is no TSC scaling.
    """

    offset: int
    ratio: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One step as it was played.

    `values` is what was read, or what was really written, as the operation names them (`value_names`); those
    of a guest that runs are its samples, in cycles.

    `error` is its errno's name, or "". `windows` are of the vCPUs that the operation is about, in its order;
    none where the kernel shows none.
    """

    operation: Operation
    bracket: Bracket
    values: tuple[int, ...] = ()
    error: str = ""
    windows: tuple[Window, ...] = ()

    def value(self, name: str) -> int | None:
        """The value of that name (of several the first), also of a step that failed; None if it has none."""
        names = self.operation.value_names
        place = names.index(name) if name in names else len(self.values)
        return self.values[place] if place < len(self.values) else None

    @property
    def guest_tsc(self) -> int | None:
        """The guest TSC that the step wrote or read, in cycles; None if it did neither."""
        return self.operation.guest_tsc(self.values)


@dataclass(frozen=True, slots=True)
class Trace:
    """A script as it was played. `release` is the kernel's, as uname -r prints it.

    It ends early where a vCPU could not be created or a value could not be worked out.
    """

    scenario: str
    release: str
    events: tuple[Event, ...]

    @property
    def script(self) -> Script:
        """The operations that were played."""
        return tuple(event.operation for event in self.events)


def from_played(scenario: str, release: str, steps: list[dict[str, Any]]) -> Trace:
    """The trace of what the player returned. TraceError when it is not that."""
    try:
        return Trace(scenario, release, tuple(_event_from_json(step) for step in steps))
    except ScriptError as error:
        raise TraceError(str(error)) from None
    except RecursionError:
        raise TraceError("nested too deeply") from None


def to_lines(trace: Trace) -> Iterator[str]:
    """The trace as lines of JSON, without line ends."""
    yield json.dumps(
        {"trace": SCHEMA, "scenario": trace.scenario, "release": trace.release, "tool": __version__}
    )
    for event in trace.events:
        yield json.dumps(_event_to_json(event), separators=(",", ":"))
    yield json.dumps({"end": len(trace.events)})


def from_lines(lines: Iterable[str]) -> Iterator[Trace]:
    """The traces in the lines of a file, one after the other. TraceError at the first line that is wrong."""
    header: dict[str, Any] | None = None
    events: list[Event] = []
    left = dict(MAX_IN_A_FILE)
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            _take(left, characters=len(line))
            data = _parse(line)
            if header is None:
                _take(left, traces=1)
                header, events = _check_header(data), []
            elif "end" in data:
                if data != {"end": len(events)}:
                    raise TraceError(
                        f"the end mark counts {data['end']!a:.20} steps, {len(events)} are there"
                    )
                yield Trace(header["scenario"], header["release"], tuple(events))
                header = None
            elif len(events) >= script.MAX_STEPS:
                raise TraceError(f"more than {script.MAX_STEPS} steps")
            else:
                events.append(_event_from_json(data))
                _take(left, steps=1, values=len(events[-1].values) + len(events[-1].windows))
        except (ScriptError, TraceError) as error:
            raise TraceError(f"line {number}: {error}") from None
        except RecursionError:
            # How deep the parser goes, and how deep we can, is not the same in every Python.
            raise TraceError(f"line {number}: nested too deeply") from None
    if header is not None:
        raise TraceError(f"line {number}: the trace of {header['scenario']!r} has no end mark: cut off?")


def _take(left: dict[str, int], **counts: int) -> None:
    for what, count in counts.items():
        left[what] -= count
        if left[what] < 0:
            raise TraceError(f"more than {MAX_IN_A_FILE[what]} {what} in one file")


def _parse(line: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise TraceError(f"longer than {MAX_LINE} characters")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise TraceError("not JSON") from None
    if type(data) is not dict:
        raise TraceError("not a JSON object")
    return data


def _check_header(data: dict[str, Any]) -> dict[str, Any]:
    if data.get("trace") != SCHEMA:
        raise TraceError(f"not the header of a trace this version reads (trace: {SCHEMA})")
    for key in ("scenario", "release"):
        text = data.get(key)
        if type(text) is not str or len(text) > 200 or not (text.isascii() and text.isprintable()):
            raise TraceError(f"the header has no {key} in plain text")
    return data


def _event_to_json(event: Event) -> dict[str, Any]:
    bracket = event.bracket
    data: dict[str, Any] = {
        "op": script.to_json(event.operation),
        "tsc": [bracket.tsc_before, bracket.tsc_after],
        "ns": [bracket.ns_before, bracket.ns_after],
    }
    if event.values:
        data["values"] = list(event.values)
    if event.error:
        data["errno"] = event.error
    if event.windows:
        data["windows"] = [[each for each in window if each is not None] for window in event.windows]
    return data


def _event_from_json(data: dict[str, Any]) -> Event:
    if not {"op", "tsc", "ns"} <= set(data) <= {"op", "tsc", "ns", "values", "errno", "windows"}:
        raise TraceError("not a step: it needs op, tsc and ns, and may have values, errno and windows")
    tsc, ns = _numbers(data["tsc"], "tsc"), _numbers(data["ns"], "ns")
    if not all(len(pair) == 2 and 0 <= pair[1] - pair[0] < MAX_WIDTH for pair in (tsc, ns)):
        raise TraceError("tsc and ns are not brackets: two numbers each, the later one second")
    error = data.get("errno", "")
    if error != "" and error not in errno.errorcode.values():
        raise TraceError(f"no errno is called {error!a:.60}")
    operation = script.from_json(data["op"])
    values = _numbers(data.get("values", []), "values")
    if len(values) not in operation.value_counts(error):
        raise TraceError(f"{operation.name} cannot have {len(values)} values")
    windows = _windows(data.get("windows", []), len(operation.vcpu_numbers))
    return Event(operation, Bracket(tsc[0], ns[0], ns[1], tsc[1]), values, error, windows)


def _windows(data: Any, vcpus: int) -> tuple[Window, ...]:
    if type(data) is not list or len(data) not in (0, vcpus):
        raise TraceError(f"windows: expected one for each of {vcpus} vCPUs")
    found = [_numbers(each, "windows") for each in data]
    if not all(len(each) in (1, 2) for each in found):
        raise TraceError("windows: expected an offset, and perhaps a ratio")
    return tuple(Window(*each) for each in found)


def _numbers(data: Any, what: str) -> tuple[int, ...]:
    if type(data) is not list or not all(type(item) is int and 0 <= item < 2**64 for item in data):
        raise TraceError(f"{what}: expected whole numbers from 0 to 2**64 - 1")
    return tuple(data)
