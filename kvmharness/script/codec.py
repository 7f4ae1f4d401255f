# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fields of an operation hold, and how each kind goes to JSON data and back.

A field's type is one of these: `vcpu: VcpuNumber`. The type checker sees the plain type, and script.json the
codec beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from kvmharness.guests.layout import MAX_VCPUS
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.player.msr import MSRS
from kvmharness.script.value import Khz, Ppm, Read, Time, Value, value_to_json

MAX_SLEEP_NS = 3600 * 10**9
MAX_CPUS = 16  # that a script can move to
MAX_KHZ = 2**32 - 1  # KVM takes 32 bits (kvm_arch_vcpu_ioctl, KVM_SET_TSC_KHZ)
MAX_PPM = 100_000_000


class ScriptError(ValueError):
    """A script, or the JSON of one, makes no sense; the text says where."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How a field goes to JSON data and back. `decode` raises ScriptError for what it does not know."""

    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any] = lambda plain: plain


def one_of(names: Mapping[str, Any], what: str) -> Callable[[Any], str]:
    """A decoder of names; `what` says what has such a name."""

    def decode(data: Any) -> str:
        if type(data) is not str or data not in names:
            raise ScriptError(f"no {what} is called {data!a:.60}")
        return data

    return decode


def _number(data: Any, low: int, high: int) -> int:
    if type(data) is not int or not low <= data <= high:
        raise ScriptError(f"expected a whole number from {low} to {high}, got {data!a:.60}")
    return data


def _within(low: int, high: int) -> Codec:
    return Codec(lambda data: _number(data, low, high))


def _yes_no(data: Any) -> bool:
    if type(data) is not bool:
        raise ScriptError(f"expected true or false, got {data!a:.60}")
    return data


def _text(data: Any) -> str:
    if type(data) is not str or len(data) > 100 or not (data.isascii() and data.isprintable()):
        raise ScriptError(f"expected a short plain text, got {data!a:.60}")
    return data


def _list(data: Any) -> list[Any]:
    if type(data) is not list or not 0 < len(data) <= 1000:
        raise ScriptError(f"expected a list that is not empty, got {data!a:.60}")
    return data


def _value(data: Any) -> Value:
    if type(data) is dict and set(data) == {"ns"}:
        return Time(_number(data["ns"], -(2**63), 2**63))
    if type(data) is dict and {"read", "plus"} <= set(data) <= {"read", "plus", "place"}:
        plus = _value(data["plus"])
        if isinstance(plus, Read):
            raise ScriptError("what is added to a reading cannot be a reading itself")
        return Read(_text(data["read"]), plus, _number(data.get("place", 0), 0, 1000))
    return _number(data, -(2**63), 2**64 - 1)


def _khz(data: Any) -> Khz:
    if type(data) is dict and set(data) == {"ppm"}:
        return Ppm(_number(data["ppm"], -1_000_000, MAX_PPM))
    return _number(data, 0, MAX_KHZ)


def _msr_and_value(data: Any) -> tuple[str, Value]:
    if len(_list(data)) != 2:
        raise ScriptError(f"expected an MSR and its value, got {data!a:.60}")
    return _msr(data[0]), _value(data[1])


def _vcpus(data: Any) -> tuple[int, ...]:
    numbers = tuple(_number(each, 0, MAX_VCPUS - 1) for each in _list(data))
    if len(set(numbers)) < len(numbers):
        raise ScriptError(f"a vCPU twice in {data!a:.60}")
    return numbers


_msr = one_of(MSRS, "MSR")

Label = Annotated[str, Codec(_text)]
Guest = Annotated[str, Codec(one_of(PROGRAMS, "guest"))]
VcpuNumber = Annotated[int, _within(0, MAX_VCPUS - 1)]
VcpuNumbers = Annotated[tuple[int, ...], Codec(_vcpus, list)]
Level = Annotated[int, _within(1, 2)]
CpuNumber = Annotated[int, _within(0, MAX_CPUS - 1)]
Duration = Annotated[int, _within(0, MAX_SLEEP_NS)]  # ns
Runstate = Annotated[int, _within(0, 3)]  # of a Xen's vCPU
YesNo = Annotated[bool, Codec(_yes_no)]
MsrName = Annotated[str, Codec(_msr)]
MsrNames = Annotated[tuple[str, ...], Codec(lambda data: tuple(_msr(name) for name in _list(data)), list)]
ToWrite = Annotated[Value, Codec(_value, value_to_json)]
ToWriteIfAny = Annotated[
    Value | None,
    Codec(
        lambda data: None if data is None else _value(data),
        lambda value: None if value is None else value_to_json(value),
    ),
]
PpmIfAny = Annotated[int | None, Codec(lambda data: None if data is None else _number(data, 1, MAX_PPM))]
SeveralToWrite = Annotated[
    tuple[Value, ...],
    Codec(
        lambda data: tuple(_value(each) for each in _list(data)),
        lambda values: [value_to_json(value) for value in values],
    ),
]
MsrsToWrite = Annotated[
    tuple[tuple[str, Value], ...],
    Codec(
        lambda data: tuple(_msr_and_value(pair) for pair in _list(data)),
        lambda pairs: [[name, value_to_json(value)] for name, value in pairs],
    ),
]
KhzToWrite = Annotated[Khz, Codec(_khz, lambda khz: {"ppm": khz.ppm} if isinstance(khz, Ppm) else khz)]
