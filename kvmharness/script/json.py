# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations as JSON data and back."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from kvmharness.guests.layout import MAX_VCPUS
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.player.msr import MSRS
from kvmharness.script.operation import OPERATIONS, Operation, WriteTogether
from kvmharness.script.value import Khz, Ppm, Read, Time, Value

MAX_SLEEP_NS = 3600 * 10**9
MAX_CPUS = 16  # that a script can move to
MAX_KHZ = 2**32 - 1  # KVM takes 32 bits (kvm_arch_vcpu_ioctl, KVM_SET_TSC_KHZ)
MAX_PPM = 100_000_000


class ScriptError(ValueError):
    """A script, or the JSON of one, makes no sense; the text says where."""


def _number(data: Any, low: int, high: int) -> int:
    if type(data) is not int or not low <= data <= high:
        raise ScriptError(f"expected a whole number from {low} to {high}, got {data!a:.60}")
    return data


def _text(data: Any) -> str:
    if type(data) is not str or len(data) > 100 or not (data.isascii() and data.isprintable()):
        raise ScriptError(f"expected a short plain text, got {data!a:.60}")
    return data


def _one_of(names: Mapping[str, Any], what: str) -> Callable[[Any], str]:
    def decode(data: Any) -> str:
        if type(data) is not str or data not in names:
            raise ScriptError(f"no {what} is called {data!a:.60}")
        return data

    return decode


def _list(data: Any) -> list[Any]:
    if type(data) is not list or not 0 < len(data) <= 1000:
        raise ScriptError(f"expected a list that is not empty, got {data!a:.60}")
    return data


def _value_to_json(value: Value) -> Any:
    if isinstance(value, Time):
        return {"ns": value.ns}
    if isinstance(value, Read):
        place = {"place": value.place} if value.place else {}
        return {"read": value.label, "plus": _value_to_json(value.plus), **place}
    return value


def _value_from_json(data: Any) -> Value:
    if type(data) is dict and set(data) == {"ns"}:
        return Time(_number(data["ns"], -(2**63), 2**63))
    if type(data) is dict and {"read", "plus"} <= set(data) <= {"read", "plus", "place"}:
        plus = _value_from_json(data["plus"])
        if isinstance(plus, Read):
            raise ScriptError("what is added to a reading cannot be a reading itself")
        return Read(_text(data["read"]), plus, _number(data.get("place", 0), 0, 1000))
    return _number(data, -(2**63), 2**64 - 1)


def _khz_to_json(khz: Khz) -> Any:
    return {"ppm": khz.ppm} if isinstance(khz, Ppm) else khz


def _khz_from_json(data: Any) -> Khz:
    if type(data) is dict and set(data) == {"ppm"}:
        return Ppm(_number(data["ppm"], -1_000_000, MAX_PPM))
    return _number(data, 0, MAX_KHZ)


def _pair_from_json(data: Any) -> tuple[str, Value]:
    if len(_list(data)) != 2:
        raise ScriptError(f"expected an MSR and its value, got {data!a:.60}")
    return _msr(data[0]), _value_from_json(data[1])


def _vcpus(data: Any) -> tuple[int, ...]:
    numbers = tuple(_number(each, 0, MAX_VCPUS - 1) for each in _list(data))
    if len(set(numbers)) < len(numbers):
        raise ScriptError(f"a vCPU twice in {data!a:.60}")
    return numbers


_msr = _one_of(MSRS, "MSR")

# A field's name says what it holds, in every operation that has it.
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "label": _text,
    "vcpu": lambda data: _number(data, 0, MAX_VCPUS - 1),
    "vcpus": _vcpus,
    "guest": _one_of(PROGRAMS, "guest"),
    "msrs": lambda data: tuple(_pair_from_json(pair) for pair in _list(data)),
    "indices": lambda data: tuple(_msr(name) for name in _list(data)),
    "offset": _value_from_json,
    "msr": _msr,
    "value": _value_from_json,
    "values": lambda data: tuple(_value_from_json(each) for each in _list(data)),
    "clock": _value_from_json,
    "realtime": lambda data: None if data is None else _value_from_json(data),
    "khz": _khz_from_json,
    "to": lambda data: _number(data, 0, MAX_CPUS - 1),
    "ns": lambda data: _number(data, 0, MAX_SLEEP_NS),
}
_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "msrs": lambda pairs: [[name, _value_to_json(value)] for name, value in pairs],
    "indices": list,
    "vcpus": list,
    "offset": _value_to_json,
    "value": _value_to_json,
    "values": lambda values: [_value_to_json(value) for value in values],
    "clock": _value_to_json,
    "realtime": lambda value: None if value is None else _value_to_json(value),
    "khz": _khz_to_json,
}


def to_json(operation: Operation) -> dict[str, Any]:
    """An operation as JSON data; an empty label is left out."""
    data: dict[str, Any] = {"op": operation.name}
    for field in fields(operation):
        value = getattr(operation, field.name)
        if field.name != "label" or value:
            data[field.name] = _ENCODERS.get(field.name, lambda plain: plain)(value)
    return data


def from_json(data: Any) -> Operation:
    """The operation that to_json() made `data` from; ScriptError says what is wrong with it."""
    if type(data) is not dict:
        raise ScriptError(f"expected an operation, got {data!a:.60}")
    kind = OPERATIONS[_one_of(OPERATIONS, "operation")(data.get("op"))]
    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in data.items() if name != "op"}
    if set(given) | {"label"} != names:
        odd = sorted(set(given) ^ (names - {"label"} | (set(given) & {"label"})))
        raise ScriptError(f"{kind.name}: missing or unknown: {', '.join(str(name)[:60] for name in odd)}")
    made = kind(**{name: _DECODERS[name](value) for name, value in given.items()})
    if isinstance(made, WriteTogether) and len(made.values) != len(made.vcpus):
        raise ScriptError(f"{kind.name}: {len(made.values)} values for {len(made.vcpus)} vCPUs")
    return made
