# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces: what happened when a script was played, each step between readings of the host's clocks.

A trace file is JSON Lines: a header, one line a step, an end mark. Cycles and ns are whole numbers
up to 2**64 - 1; a reader in another language must not put them into floating point. A file holds
several traces, one after the other, up to MAX_IN_A_FILE.

    {"trace": 3, "scenario": "young-restore", "release": "6.1.0-56-cloud-amd64", "tool": "0.1.0",
     "place": {"kernel": "debian:6.1", "machine": "amd", "session": "1f0a...",
               "may_protect_tscs": false, "counts_instructions": true, "keeps_tsc_stable": true},
     "host": {"clocksource": "tsc", "kvm.tsc_tolerance_ppm": "250", ...},
     "created": {"tsc": [b, a], "ns": [b, a]}}
    {"op": {"op": "sleep", "ns": 50000000}, "tsc": [b, a], "ns": [b, a]}
    {"op": {"op": "get_msrs", ...}, "tsc": [b, a], "ns": [b, a], "values": [51203111]}
    {"op": {"op": "set_tsc_offset", ...}, "tsc": [b, a], "ns": [b, a], "values": [7], "errno": "ENXIO"}
    {"op": {"op": "create_vcpu", ...}, "tsc": [b, a], "ns": [b, a], "values": [2000000], "debugfs": [[5]]}
    {"op": {"op": "run", ...}, "tsc": [b, a], "ns": [b, a], "values": [51207333], "exits": [["IO"]]}
    {"end": 5}

Schema 1 said "windows" instead of "debugfs", and neither place nor exits; schema 2 did not say when
the VM was created. Both are still read.
"""

import errno
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from kvmharness import __version__, script
from kvmharness.script import Operation, Script, ScriptError

SCHEMA = 3
_READS = (1, 2, SCHEMA)
MAX_LINE = 1_000_000
_MAX_ERRNO = 4095  # MAX_ERRNO of include/linux/err.h
_EXIT = re.compile("[A-Z][A-Z0-9_]{0,39}|exit-[0-9]{1,10}")
_MOST_FACTS = 300  # of a host
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


class DebugfsReading(NamedTuple):
    """What the kernel showed of a vCPU right after a step, in debugfs.

    Its TSC offset (cycles, modulo 2**64), and its scaling ratio, a fraction of 2**32 (AMD) or 2**48 (Intel):
    None where that was not looked at, or there is no TSC scaling.
    """

    offset: int
    ratio: int | None = None


# What a machine that is short of something, or a signal, makes of any operation, and what only somebody else
# on the machine can make of one.
_SHORTAGES = frozenset({"ENOMEM", "EINTR", "EMFILE", "ENFILE"})
_OF_OTHERS = frozenset({"EAGAIN", "EBUSY", "EPERM", "EACCES", "ENOSPC"})

# How KVM_RUN comes back from our guests: they leave by an OUT, or their deadline comes.
_IO, _INTR = "IO", "INTR"


class GuestExit(NamedTuple):
    """Why KVM_RUN of a vCPU came back: the exit reason, called as in KVM_EXIT_*, or exit-N for one without a
    name here. INTR is the deadline.

    `detail` is the hardware's reason of UNKNOWN and FAIL_ENTRY, and the suberror of INTERNAL_ERROR.
    """

    reason: str
    detail: int | None = None

    @property
    def is_death(self) -> bool:
        """Whether the guest ended in a way that none of ours causes."""
        return self.reason not in (_IO, _INTR)

    @property
    def text(self) -> str:
        """It in words."""
        return self.reason if self.detail is None else f"{self.reason} ({self.detail:#x})"


@dataclass(frozen=True, slots=True)
class Event:
    """One step as it was played.

    `values` is what was read, or what was really written, as the operation names them (`value_names`); those
    of a guest that runs are its samples, in cycles.

    `error` is its errno's name, or "errno-N" for one that Python has no name for, or "". `debugfs` and
    `exits` are of the vCPUs that the operation is about, in its order: none where the kernel shows nothing,
    and where no guest ran, or the trace is of an older version.
    """

    operation: Operation
    bracket: Bracket
    values: tuple[int, ...] = ()
    error: str = ""
    debugfs: tuple[DebugfsReading, ...] = ()
    exits: tuple[GuestExit, ...] = ()

    def value(self, name: str) -> int | None:
        """The value of that name (of several the first), also of a step that failed; None if it has none."""
        names = self.operation.value_names
        place = names.index(name) if name in names else len(self.values)
        return self.values[place] if place < len(self.values) else None

    @property
    def death(self) -> GuestExit | None:
        """How a guest ended in a way that none of ours causes, which is KVM's doing; None if none did."""
        return next((each for each in self.exits if each.is_death), None)

    @property
    def end(self) -> str:
        """How it ended where it did not end well, in words that may follow "read nothing"; else ""."""
        if self.error:
            return f"failed with {self.error}"
        if self.death:
            return f"KVM_RUN came back with {self.death.text}"
        return "its deadline came" if self.timed_out else ""

    @property
    def timed_out(self) -> bool:
        """Whether a guest was still running at its deadline, as endless ones always are."""
        return any(each.reason == _INTR for each in self.exits)

    @property
    def guest_tsc(self) -> int | None:
        """The guest TSC that the step wrote or read, in cycles; None if it did neither."""
        return self.operation.guest_tsc(self.values)


# The machine that is none of the lab's.
HOSTS_OWN = "/dev/kvm"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session was played: all that its judge has to know besides its traces.

    `kernel` and `machine` are as reports name them; `session` is the same for all that was played together.
    Where a machine may protect TSCs, its KVM may have no say over its guests'. Where it counts instructions,
    its time is a function of what it executes; elsewhere no two runs are the same. Where it keeps the TSC
    stable, a kernel has no reason to take that for unstable, or another clock for its own.
    """

    kernel: str
    machine: str
    session: str
    may_protect_tscs: bool
    counts_instructions: bool
    keeps_tsc_stable: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """A script as it was played. `release` is the kernel's, as uname -r prints it.

    It ends early where a vCPU could not be created or a value could not be worked out. `place` is None where
    nothing is known of it: then it is taken for a host. `host` is what the machine was meanwhile, by name
    (player/host_state.py), as far as that was looked at. `created` is the bracket of KVM_CREATE_VM; None
    where nobody looked.
    """

    scenario: str
    release: str
    events: tuple[Event, ...]
    place: Place | None = None
    host: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: Bracket | None = None

    @property
    def script(self) -> Script:
        """The operations that were played."""
        return tuple(event.operation for event in self.events)

    @property
    def labelled(self) -> dict[str, Event]:
        """The steps by their labels."""
        return {event.operation.label: event for event in self.events}

    @property
    def numbers(self) -> dict[str, int]:
        """Which step (from 1) has which label."""
        return {event.operation.label: number for number, event in enumerate(self.events, 1)}

    @property
    def excuses(self) -> frozenset[str]:
        """The errnos that say nothing about the kernel where this was played."""
        return _SHORTAGES if self.is_undisturbed else _SHORTAGES | _OF_OTHERS

    @property
    def blames(self) -> frozenset[str]:
        """The errnos that are an excuse elsewhere, but only KVM itself can have returned here."""
        return _OF_OTHERS if self.is_undisturbed else frozenset()

    @property
    def is_undisturbed(self) -> bool:
        """Whether nothing but the kernel and the player ran where this was played."""
        return self.place is not None and self.place.counts_instructions


def from_played(
    scenario: str,
    release: str,
    steps: list[dict[str, Any]],
    place: Place | None = None,
    host: Mapping[str, str] | None = None,
    *,
    created: dict[str, Any] | None = None,
) -> Trace:
    """The trace of what the player returned. TraceError when it is not that."""
    try:
        if not _is_plain(release):
            raise TraceError("the kernel's release is no plain text")
        events = tuple(_event_from_json(step) for step in steps)
        facts = _host_from_json({} if host is None else host)
        return Trace(scenario, release, events, place, facts, _created_from_json(created))
    except ScriptError as error:
        raise TraceError(str(error)) from None
    except RecursionError:
        raise TraceError("nested too deeply") from None


def to_lines(trace: Trace) -> Iterator[str]:
    """The trace as lines of JSON, without line ends."""
    header = {"trace": SCHEMA, "scenario": trace.scenario, "release": trace.release, "tool": __version__}
    place = {"place": asdict(trace.place)} if trace.place else {}
    host = {"host": {**trace.host}} if trace.host else {}
    created = {"created": _bracket_to_json(trace.created)} if trace.created else {}
    yield json.dumps({**header, **place, **host, **created})
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
                about = header["place"], header["host"], header["created"]
                yield Trace(header["scenario"], header["release"], tuple(events), *about)
                header = None
            elif len(events) >= script.MAX_STEPS:
                raise TraceError(f"more than {script.MAX_STEPS} steps")
            else:
                events.append(_event_from_json(data, header["trace"]))
                recorded = events[-1].values, events[-1].debugfs, events[-1].exits
                _take(left, steps=1, values=sum(map(len, recorded)))
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
    if type(data.get("trace")) is not int or data["trace"] not in _READS:
        raise TraceError(
            f"not the header of a trace this version reads (trace: {' or '.join(map(str, _READS))})"
        )
    for key in ("scenario", "release"):
        if not _is_plain(data.get(key)):
            raise TraceError(f"the header has no {key} in plain text")
    place = _place_from_json(data["place"]) if "place" in data else None
    created = _created_from_json(data.get("created"))
    return {**data, "place": place, "host": _host_from_json(data.get("host", {})), "created": created}


_ANSWERS = ("may_protect_tscs", "counts_instructions", "keeps_tsc_stable")


def _place_from_json(data: Any) -> Place:
    texts, answers = ("kernel", "machine", "session"), _ANSWERS
    if type(data) is not dict or set(data) != {*texts, *answers}:
        raise TraceError(f"place: expected {', '.join((*texts, *answers))}")
    for name in texts:
        if not _is_plain(data[name]):
            raise TraceError(f"place: {name} is no plain text")
    for name in answers:
        if type(data[name]) is not bool:
            raise TraceError(f"place: {name} is neither true nor false")
    return Place(**data)


def _host_from_json(data: Any) -> dict[str, str]:
    if type(data) is not dict or len(data) > _MOST_FACTS:
        raise TraceError(f"host: expected up to {_MOST_FACTS} texts by name")
    for name, text in data.items():
        if not _is_plain(name) or not _is_plain(text):
            raise TraceError(f"host: {name!a:.60} is no plain text")
    return data


def _created_from_json(data: Any) -> Bracket | None:
    if data is None:
        return None
    if type(data) is not dict or set(data) != {"tsc", "ns"}:
        raise TraceError("created: expected tsc and ns")
    return _bracket_from_json(data)


def _is_plain(text: Any) -> bool:
    return type(text) is str and len(text) <= 200 and text.isascii() and text.isprintable()


def _event_to_json(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {"op": script.to_json(event.operation), **_bracket_to_json(event.bracket)}
    if event.values:
        data["values"] = list(event.values)
    if event.error:
        data["errno"] = event.error
    for key, readings in (("debugfs", event.debugfs), ("exits", event.exits)):
        if readings:
            data[key] = [[each for each in reading if each is not None] for reading in readings]
    return data


def _bracket_to_json(bracket: Bracket) -> dict[str, list[int]]:
    return {
        "tsc": [bracket.tsc_before, bracket.tsc_after],
        "ns": [bracket.ns_before, bracket.ns_after],
    }


def _bracket_from_json(data: Mapping[str, Any]) -> Bracket:
    tsc, ns = _numbers(data["tsc"], "tsc"), _numbers(data["ns"], "ns")
    if not all(len(pair) == 2 and 0 <= pair[1] - pair[0] < MAX_WIDTH for pair in (tsc, ns)):
        raise TraceError("tsc and ns are not brackets: two numbers each, the later one second")
    return Bracket(tsc[0], ns[0], ns[1], tsc[1])


# What a step may have besides op, tsc and ns.
_OPTIONAL = {1: {"values", "errno", "windows"}, 2: {"values", "errno", "debugfs", "exits"}}
_OPTIONAL[SCHEMA] = _OPTIONAL[2]


def _event_from_json(data: dict[str, Any], schema: int = SCHEMA) -> Event:
    if not {"op", "tsc", "ns"} <= set(data) <= {"op", "tsc", "ns", *_OPTIONAL[schema]}:
        raise TraceError(f"not a step: it needs op, tsc and ns, and may have {', '.join(_OPTIONAL[schema])}")
    bracket = _bracket_from_json(data)
    error = data.get("errno", "")
    if error != "" and not _is_errno(error):
        raise TraceError(f"no errno is called {error!a:.60}")
    operation = script.from_json(data["op"])
    values = _numbers(data.get("values", []), "values")
    if len(values) not in operation.value_counts(error):
        raise TraceError(f"{operation.name} cannot have {len(values)} values")
    vcpus = len(operation.vcpu_numbers)
    debugfs = _debugfs(data.get("windows" if schema == 1 else "debugfs", []), vcpus)
    exits = _exits(data.get("exits", []), vcpus if operation.enters_guest else 0)
    return Event(operation, bracket, values, error, debugfs, exits)


def _is_errno(name: Any) -> bool:
    """Whether it is an errno's name, or of one that has none its number. Linux has numbers up to 4095."""
    if type(name) is not str:
        return False
    numbered = re.fullmatch("errno-([1-9][0-9]{0,3})", name)
    if numbered:
        return int(numbered[1]) <= _MAX_ERRNO and int(numbered[1]) not in errno.errorcode
    return name in errno.errorcode.values()


def _debugfs(data: Any, vcpus: int) -> tuple[DebugfsReading, ...]:
    if type(data) is not list or len(data) not in (0, vcpus):
        raise TraceError(f"debugfs: expected a reading of each of {vcpus} vCPUs")
    found = [_numbers(each, "debugfs") for each in data]
    if not all(len(each) in (1, 2) for each in found):
        raise TraceError("debugfs: expected an offset, and perhaps a ratio")
    return tuple(DebugfsReading(*each) for each in found)


def _exits(data: Any, vcpus: int) -> tuple[GuestExit, ...]:
    if type(data) is not list or len(data) not in (0, vcpus):
        raise TraceError(f"exits: expected one for each of {vcpus} vCPUs that ran")
    return tuple(map(_exit, data))


def _exit(data: Any) -> GuestExit:
    if type(data) is not list or len(data) not in (1, 2):
        raise TraceError("exits: expected a reason, and perhaps a number")
    if type(data[0]) is not str or not _EXIT.fullmatch(data[0]):
        raise TraceError(f"no exit is called {data[0]!a:.60}")
    return GuestExit(data[0], *_numbers(data[1:], "exits"))


def _numbers(data: Any, what: str) -> tuple[int, ...]:
    if type(data) is not list or not all(type(item) is int and 0 <= item < 2**64 for item in data):
        raise TraceError(f"{what}: expected whole numbers from 0 to 2**64 - 1")
    return tuple(data)
