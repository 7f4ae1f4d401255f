# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of a recording: a head, a line an ioctl, an end mark. JSON, one object a line.

A recording whose recorder was killed has no end mark, and its last line may be cut off.
"""

import errno
import json
from dataclasses import dataclass
from typing import Any

from kvmharness.player.msr import MSRS

VERSION = 1
MAX_CHARACTERS = 100_000_000
MAX_LINES = 500_000
_MAX_MSRS = 5000

# What lines are about, each with the keys that one of it has beside those that all have.
OPS: dict[str, frozenset[str]] = {
    "create_vm": frozenset({"program"}),
    "create_vcpu": frozenset(),
    "get_msrs": frozenset({"count", "msrs", "done"}),
    "set_msrs": frozenset({"count", "msrs", "done"}),
    "get_tsc_khz": frozenset({"khz"}),
    "set_tsc_khz": frozenset({"khz"}),
    "get_clock": frozenset({"clock", "flags", "realtime", "host_tsc"}),
    "set_clock": frozenset({"clock", "flags", "realtime", "host_tsc"}),
    "kvmclock_ctrl": frozenset(),
    "get_device_attr": frozenset({"group", "attr", "value"}),
    "set_device_attr": frozenset({"group", "attr", "value"}),
    "get_lapic": frozenset(),
    "set_lapic": frozenset(),
    "get_mp_state": frozenset({"mp_state"}),
    "set_mp_state": frozenset({"mp_state"}),
    "enter": frozenset(),
    "run": frozenset({"count", "exits"}),
}
_ALL = frozenset({"op", "thread", "vm", "vcpu", "tsc", "ns", "errno", "died"})
_OF_VM = frozenset({"create_vm", "get_clock", "set_clock"})
_OF_EITHER = frozenset({"get_tsc_khz", "set_tsc_khz", "kvmclock_ctrl"})
_HEAD = frozenset({"recording", "made_by", "vmm", "note", "command", "contract", "claims"})
_MAX_TEXT = 1000


class RecordingError(ValueError):
    """A recording makes no sense; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An ioctl, or KVM_RUNs of one vCPU between which nothing else was recorded of its VM.

    `tsc` (cycles of the host) and `ns` (since the recording began, CLOCK_MONOTONIC_RAW) are before and after
    it. `error` is the errno's name, or "". `vm` is None where a create_vm failed, `vcpu` where the VM itself
    is asked. `values` has the numbers of an op's own keys, `exits` how many KVM_RUNs ended by which reason
    (KVM_EXIT_*; below 0 an errno). `died`: its end was not seen.
    """

    op: str
    thread: int
    vm: int | None
    vcpu: int | None
    tsc: tuple[int, int]
    ns: tuple[int, int]
    error: str = ""
    died: bool = False
    values: dict[str, int]
    msrs: tuple[tuple[str, int], ...] = ()
    exits: tuple[tuple[int, int], ...] = ()
    program: str = ""

    def msr(self, name: str) -> int | None:
        """The value of an MSR that it read or wrote, the last one; None if it did not."""
        return next((value for each, value in reversed(self.msrs) if each == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A whole file. `end` is what its end mark says, "" for one that was cut short."""

    vmm: str
    note: str
    contract: str
    claims: tuple[dict[str, Any], ...]
    lines: tuple[Line, ...]
    end: str

    def program(self, vm: int) -> str:
        """What the program is called that created a VM."""
        made = (line.program for line in self.lines if line.op == "create_vm" and line.vm == vm)
        return next(made, "") or self.vmm

    def vms(self) -> list[int]:
        """The VMs that have vCPUs, by number."""
        return sorted({line.vm for line in self.lines if line.vcpu is not None and line.vm is not None})


def is_recording(text: str) -> bool:
    """Whether a text begins like the file of a recording."""
    return text.startswith('{"recording":')


def from_text(text: str) -> Recording:
    """The recording that a file holds, its lines by when they began. RecordingError where it is none."""
    if len(text) > MAX_CHARACTERS:
        raise RecordingError(f"longer than {MAX_CHARACTERS} characters")
    rows = text.split("\n")
    if len(rows) > MAX_LINES:
        raise RecordingError(f"more than {MAX_LINES} lines")
    head = _head(_parsed(1, rows[0]))
    lines, end = [], ""
    for number, row in enumerate(rows[1:], 2):
        if not row:
            if number < len(rows):
                raise RecordingError(f"line {number} is empty")
            break
        if end:
            raise RecordingError(f"line {number} comes after the end mark")
        try:
            data = _parsed(number, row)
        except RecordingError:
            if number == len(rows):
                break  # cut off
            raise
        if "end" in data:
            end = _text(number, "end", data["end"]) or "ended"
        else:
            lines.append(_line(number, data))
    lines.sort(key=lambda line: line.ns[0])
    return Recording(**head, lines=tuple(lines), end=end)


def _parsed(number: int, row: str) -> dict[str, Any]:
    try:
        data = json.loads(row)
    except RecursionError:
        raise RecordingError(f"line {number}: nested too deeply") from None
    except ValueError:
        raise RecordingError(f"line {number}: not JSON") from None
    if type(data) is not dict:
        raise RecordingError(f"line {number}: not an object")
    return data


def _head(data: dict[str, Any]) -> dict[str, Any]:
    if data.get("recording") != VERSION or not set(data) <= _HEAD:
        raise RecordingError(f"line 1: not the head of a recording of version {VERSION}")
    claims = data.get("claims", [])
    if type(claims) is not list or any(type(each) is not dict for each in claims):
        raise RecordingError("line 1: claims: expected a list of claims")
    texts = {key: _text(1, key, data.get(key, "")) for key in ("vmm", "note", "contract")}
    return {**texts, "claims": tuple(claims)}


def _text(number: int, key: str, data: Any) -> str:
    if type(data) is not str or len(data) > _MAX_TEXT or not data.isprintable():
        raise RecordingError(f"line {number}: {key}: expected a line of text")
    return data


def _line(number: int, data: dict[str, Any]) -> Line:
    op = data.get("op")
    if type(op) is not str or op not in OPS:
        raise RecordingError(f"line {number}: no ioctl is called {op!a:.60}")
    if odd := set(data) - _ALL - OPS[op]:
        raise RecordingError(f"line {number}: {op}: unknown: {min(odd)!a:.60}")
    if op != "create_vm" and "vm" not in data:
        raise RecordingError(f"line {number}: {op} of no VM")
    if ("vcpu" in data) == (op in _OF_VM) and op not in _OF_EITHER:
        raise RecordingError(f"line {number}: {op} of {'a' if 'vcpu' in data else 'no'} vCPU")
    error = _count(number, data, "errno", 4095) if "errno" in data else 0
    return Line(
        op=op,
        thread=_count(number, data, "thread", 2**32),
        vm=_count(number, data, "vm", 2**32) if "vm" in data else None,
        vcpu=_count(number, data, "vcpu", 2**32) if "vcpu" in data else None,
        tsc=_two(number, data, "tsc"),
        ns=_two(number, data, "ns"),
        error=errno.errorcode.get(error, f"errno-{error}") if error else "",
        died=_flag(number, data),
        values={
            key: _count(number, data, key) for key in OPS[op] - {"msrs", "exits", "program"} if key in data
        },
        msrs=_msrs(number, data.get("msrs", [])),
        exits=_exits(number, data.get("exits", [])),
        program=_text(number, "program", data.get("program", "")),
    )


def _flag(number: int, data: dict[str, Any]) -> bool:
    if data.get("died", True) is not True:
        raise RecordingError(f"line {number}: died: expected true")
    return "died" in data


def _count(number: int, data: dict[str, Any], key: str, below: int = 2**64) -> int:
    value = data.get(key)
    if type(value) is not int or not 0 <= value < below:
        raise RecordingError(f"line {number}: {key}: expected a number, got {value!a:.60}")
    return value


def _two(number: int, data: dict[str, Any], key: str) -> tuple[int, int]:
    both = data.get(key)
    if type(both) is not list or len(both) != 2 or any(type(each) is not int for each in both):
        raise RecordingError(f"line {number}: {key}: expected two numbers, before and after")
    if not 0 <= both[0] <= both[1] < 2**64:
        raise RecordingError(f"line {number}: {key}: ends before it begins")
    return both[0], both[1]


def _msrs(number: int, data: Any) -> tuple[tuple[str, int], ...]:
    if type(data) is not list or len(data) > _MAX_MSRS:
        raise RecordingError(f"line {number}: msrs: expected a list")
    for each in data:
        if type(each) is not list or len(each) != 2 or each[0] not in (*MSRS,):
            raise RecordingError(f"line {number}: msrs: no MSR is called {each!a:.60}")
        if type(each[1]) is not int or not 0 <= each[1] < 2**64:
            raise RecordingError(f"line {number}: msrs: expected a number, got {each[1]!a:.60}")
    return tuple((name, value) for name, value in data)


def _exits(number: int, data: Any) -> tuple[tuple[int, int], ...]:
    if type(data) is not list or len(data) > _MAX_MSRS:
        raise RecordingError(f"line {number}: exits: expected a list")
    for each in data:
        if type(each) is not list or len(each) != 2 or any(type(number) is not int for number in each):
            raise RecordingError(f"line {number}: exits: expected a reason and how often, got {each!a:.60}")
    return tuple((reason, count) for reason, count in data)
