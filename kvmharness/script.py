# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts: what to do to a VM, as plain data.

A script is a tuple of operations. An operation may carry a label, by which later values and a
contract refer to it. Everything goes to JSON and back unchanged; the player plays the JSON.

A value to write is a number of cycles, or
    Time(ns)              that many ns of the vCPU's own cycles
    Read(label, plus)     the first value the step with that label read, plus a number or a Time
A frequency to write is a number of kHz, or
    Ppm(ppm)              what it was to begin with, and that many millionths more
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from kvmharness.guests.layout import MAX_VCPUS
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.msr import MSRS

TSC_STABLE = 2  # KVM_CLOCK_TSC_STABLE, of what GetClock reads second
MAX_STEPS = 10_000
MAX_SLEEP_NS = 3600 * 10**9
MAX_CPUS = 16  # that a script can move to
MAX_KHZ = 2**32 - 1  # KVM takes 32 bits (kvm_arch_vcpu_ioctl, KVM_SET_TSC_KHZ)
MAX_PPM = 100_000_000


class ScriptError(ValueError):
    """A script, or the JSON of one, makes no sense; the text says where."""


@dataclass(frozen=True, slots=True)
class Time:
    """`ns` nanoseconds, of the cycles of the vCPU it is used for."""

    ns: int


@dataclass(frozen=True, slots=True)
class Read:
    """What the step labelled `label` read (cycles), plus `plus`."""

    label: str
    plus: "int | Time" = 0


Value = int | Time | Read


@dataclass(frozen=True, slots=True)
class Ppm:
    """The kHz there were to begin with times (1_000_000 + ppm) / 1_000_000, rounded down.

    To begin with: of a vCPU when it was created, of a VM when the step is played. From -1_000_000, which
    is 0 kHz, to a hundredfold more.
    """

    ppm: int


Khz = int | Ppm


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a script."""

    name: ClassVar[str]
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class CreateVcpu(Operation):
    """Create vCPU `vcpu` with `guest` loaded; reads its kHz."""

    name = "create_vcpu"
    vcpu: int
    guest: str = "rdtsc-16"


@dataclass(frozen=True, kw_only=True)
class SetMsrs(Operation):
    """Write MSRs of `vcpu`, in this order, with one KVM_SET_MSRS."""

    name = "set_msrs"
    vcpu: int
    msrs: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, kw_only=True)
class GetMsrs(Operation):
    """Read MSRs of `vcpu` with one KVM_GET_MSRS."""

    name = "get_msrs"
    vcpu: int
    indices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SetTscOffset(Operation):
    """Set KVM_VCPU_TSC_OFFSET of `vcpu`."""

    name = "set_tsc_offset"
    vcpu: int
    offset: Value


@dataclass(frozen=True, kw_only=True)
class GetTscOffset(Operation):
    """Read KVM_VCPU_TSC_OFFSET of `vcpu`."""

    name = "get_tsc_offset"
    vcpu: int


@dataclass(frozen=True, kw_only=True)
class SetTscKhz(Operation):
    """KVM_SET_TSC_KHZ of `vcpu` (kHz); once it succeeded, a Time of this vCPU is in the new kHz.

    0 stands for the host's own kHz (kvm_arch_vcpu_ioctl). KVM may remember kHz that it refuses, and say
    them when asked (kvm_set_tsc_khz stores them before it finds that it cannot scale).
    """

    name = "set_tsc_khz"
    vcpu: int
    khz: Khz


@dataclass(frozen=True, kw_only=True)
class GetTscKhz(Operation):
    """KVM_GET_TSC_KHZ of `vcpu`; reads its kHz.

    2**31 kHz and more cannot be told from an errno (kvm_vcpu_ioctl keeps the result in an int).
    """

    name = "get_tsc_khz"
    vcpu: int


@dataclass(frozen=True, kw_only=True)
class SetVmTscKhz(Operation):
    """KVM_SET_TSC_KHZ of the VM (kHz): what vCPUs to come start with.

    A Ppm is of what KVM_GET_TSC_KHZ says of the VM, which kernels before 5.18 do not know: the step then
    fails with what that answers. 0 stands for the host's own kHz (kvm_arch_vm_ioctl).
    """

    name = "set_vm_tsc_khz"
    khz: Khz


@dataclass(frozen=True, kw_only=True)
class MoveThread(Operation):
    """Move the playing thread to one of the CPUs it may use, and keep it there; reads CPU before and after.

    Number 0 is the CPU that the script began on, the others follow in the order of the system's numbers.
    EINVAL when there are fewer.
    """

    name = "move_thread"
    to: int


@dataclass(frozen=True, kw_only=True)
class Run(Operation):
    """KVM_RUN of `vcpu` until its guest exits, or for `ns`; reads the guest's samples, newest last."""

    name = "run"
    vcpu: int
    ns: int = 10_000_000_000


@dataclass(frozen=True, kw_only=True)
class GuestWrite(Operation):
    """Have the guest of `vcpu` execute WRMSR of `msr`; reads its TSC just before and just after.

    KVM_RUN until the guest exits, or for `ns`.
    EINVAL, and nothing runs, unless the vCPU was created with the guest "wrmsr-16".
    """

    name = "guest_write"
    vcpu: int
    msr: str
    value: Value
    ns: int = Run.ns


@dataclass(frozen=True, kw_only=True)
class GetClock(Operation):
    """KVM_GET_CLOCK of the VM; reads clock (ns) and flags."""

    name = "get_clock"


@dataclass(frozen=True, kw_only=True)
class Sleep(Operation):
    """Wait `ns` ns, or a little longer."""

    name = "sleep"
    ns: int


OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        CreateVcpu,
        SetMsrs,
        GetMsrs,
        SetTscOffset,
        GetTscOffset,
        SetTscKhz,
        GetTscKhz,
        SetVmTscKhz,
        MoveThread,
        Run,
        GuestWrite,
        GetClock,
        Sleep,
    )
}

Script = tuple[Operation, ...]


# JSON


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
        return {"read": value.label, "plus": _value_to_json(value.plus)}
    return value


def _value_from_json(data: Any) -> Value:
    if type(data) is dict and set(data) == {"ns"}:
        return Time(_number(data["ns"], -(2**63), 2**63))
    if type(data) is dict and set(data) == {"read", "plus"}:
        plus = _value_from_json(data["plus"])
        if isinstance(plus, Read):
            raise ScriptError("what is added to a reading cannot be a reading itself")
        return Read(_text(data["read"]), plus)
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


_msr = _one_of(MSRS, "MSR")

# A field's name says what it holds, in every operation that has it.
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "label": _text,
    "vcpu": lambda data: _number(data, 0, MAX_VCPUS - 1),
    "guest": _one_of(PROGRAMS, "guest"),
    "msrs": lambda data: tuple(_pair_from_json(pair) for pair in _list(data)),
    "indices": lambda data: tuple(_msr(name) for name in _list(data)),
    "offset": _value_from_json,
    "msr": _msr,
    "value": _value_from_json,
    "khz": _khz_from_json,
    "to": lambda data: _number(data, 0, MAX_CPUS - 1),
    "ns": lambda data: _number(data, 0, MAX_SLEEP_NS),
}
_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "msrs": lambda pairs: [[name, _value_to_json(value)] for name, value in pairs],
    "indices": list,
    "offset": _value_to_json,
    "value": _value_to_json,
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
    return kind(**{name: _DECODERS[name](value) for name, value in given.items()})
