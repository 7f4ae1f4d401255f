# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations as calls of C functions (pieces/operations.c).

An operation is taken as the JSON data that it is played by. A method `c_NAME` is how C does the operation of
that name; one that has none cannot be expressed.
"""

from typing import Any

from kvmharness.guests.layout import KVMCLOCK, KVMCLOCK_SIZE, MAX_VCPUS, STEAL_TIME, STEAL_TIME_SIZE, TSC_PAGE
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.player.msr import MSRS
from kvmharness.reproduce import guests
from kvmharness.reproduce.names import CannotExpressError, duration, number, runstate, text

_PREFIX = "c_"
_MSR_NAMES = {
    "TSC": "MSR_IA32_TSC",
    "TSC_ADJUST": "MSR_IA32_TSC_ADJUST",
    "TSC_DEADLINE": "MSR_IA32_TSC_DEADLINE",
    "WALL_CLOCK_OLD": "MSR_KVM_WALL_CLOCK",
    "SYSTEM_TIME_OLD": "MSR_KVM_SYSTEM_TIME",
    "WALL_CLOCK": "MSR_KVM_WALL_CLOCK_NEW",
    "SYSTEM_TIME": "MSR_KVM_SYSTEM_TIME_NEW",
    "STEAL_TIME": "MSR_KVM_STEAL_TIME",
    **{name: f"HV_X64_MSR_{name.removeprefix('HV_')}" for name in MSRS if name.startswith("HV_")},
}
assert set(_MSR_NAMES) == set(MSRS)
# The pages whose addresses MSRs have: of which MSRs, from where on, of what size, and what tells it in C.
_PAGES = (
    ("SYSTEM_TIME", KVMCLOCK, KVMCLOCK_SIZE, "page_address"),
    ("STEAL_TIME", STEAL_TIME, STEAL_TIME_SIZE, "steal_time"),
)

# What reads more than a TSC, of which only a scenario's own claims say what it has to be.
READ_FOR_CLAIMS = frozenset(
    {
        *("read_steal_time", "read_reference_time", "read_tsc_page"),
        *("read_xen_time", "read_xen_vcpu_info", "read_xen_wall_clock", "read_xen_runstate"),
        *("await_timer", "get_lapic"),
    }
)


def _msr(name: str) -> str:
    if name not in _MSR_NAMES:
        raise CannotExpressError(f"a test in C does not know the MSR {name} yet")
    return _MSR_NAMES[name]


class Calls:
    """The calls of one script. `variables` are the names in C of the steps with these labels."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables
        self._guest_of: dict[int, str] = {}
        self._has_chip = False
        self.guests: list[str] = []

    def call(self, operation: dict[str, Any], name: str) -> str:
        """The call of an operation, whose step is to have this name. CannotExpressError."""
        method = getattr(self, _PREFIX + operation["op"], None)
        if method is None:
            words = operation["op"].replace("_", " ")
            raise CannotExpressError(f"the operation '{words}' is one that a test in C cannot do yet")
        called, *arguments = method(operation)
        return f"{called}({', '.join([text(name), *map(str, arguments)])})"

    def c_create_vcpu(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """With its guest."""
        guest = self._guest_of[operation["vcpu"]] = operation["guest"]
        called = guests.name(guest)
        if guest not in self.guests:
            self.guests.append(guest)
        return "create_vcpu_with_apic" if self._has_chip else "create_vcpu", operation["vcpu"], f"&{called}"

    def c_create_irqchip(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of the VM. After the first vCPU KVM refuses it."""
        self._has_chip = self._has_chip or not self._guest_of
        return ("create_irqchip",)

    def c_set_lapic(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU whose guest takes the interrupt."""
        vcpu = self._with_timer(operation)
        return "set_lapic", vcpu, self._cycles(vcpu, operation["requested"])

    def c_get_lapic(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "get_lapic", operation["vcpu"]

    def c_await_timer(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """For so many ns, with or without a deadline that the guest writes."""
        vcpu, deadline, ns = self._with_timer(operation), operation["deadline"], duration(operation["ns"])
        if deadline is None:
            return "await_timer", vcpu, ns
        return "arm_and_await", vcpu, self._cycles(vcpu, deadline), ns

    def c_set_msrs(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """One, or several at once."""
        vcpu = operation["vcpu"]
        pairs = [(_msr(msr), self._of_msr(msr, vcpu, value)) for msr, value in operation["msrs"]]
        if len(pairs) == 1:
            return "set_msr", vcpu, *pairs[0]
        self._check_count(len(pairs))
        entries = ", ".join(f"{{ .index = {msr}, .data = {value} }}" for msr, value in pairs)
        return "set_msrs", vcpu, len(pairs), f"(struct kvm_msr_entry[]) {{ {entries} }}"

    def c_get_msrs(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """One, or several at once."""
        indices = [_msr(each) for each in operation["indices"]]
        if len(indices) == 1:
            return "get_msr", operation["vcpu"], indices[0]
        self._check_count(len(indices))
        return "get_msrs", operation["vcpu"], len(indices), f"(__u32[]) {{ {', '.join(indices)} }}"

    def c_set_tsc_offset(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """In cycles."""
        vcpu = operation["vcpu"]
        return "set_tsc_offset", vcpu, self._cycles(vcpu, operation["offset"])

    def c_get_tsc_offset(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """In cycles."""
        return "get_tsc_offset", operation["vcpu"]

    def c_set_tsc_khz(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A rate, or one by so many millionths off the first."""
        vcpu, khz = operation["vcpu"], operation["khz"]
        off = f"off_by_ppm({vcpu}, {khz['ppm']})" if isinstance(khz, dict) else f"{khz}u"
        return "set_tsc_khz", vcpu, off

    def c_get_tsc_khz(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """In kHz."""
        return "get_tsc_khz", operation["vcpu"]

    def c_get_tsc_scale(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A ratio and its fraction bits."""
        return "get_tsc_scale", operation["vcpu"]

    def c_set_vm_tsc_khz(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A rate, or one by so many millionths off the VM's."""
        khz = operation["khz"]
        return "set_vm_tsc_khz", f"vm_off_by_ppm({khz['ppm']})" if isinstance(khz, dict) else f"{khz}u"

    def c_get_clock(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of the VM."""
        return ("get_clock",)

    def c_set_clock(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """With or without the real time that it is of."""
        clock = self._ns(operation["clock"])
        if operation["realtime"] is None:
            return "set_clock", clock
        return "set_clock_of", clock, self._ns(operation["realtime"])

    def c_kvmclock_ctrl(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "kvmclock_ctrl", operation["vcpu"]

    def c_read_kvmclock(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """The page of a vCPU."""
        return "read_page", operation["vcpu"]

    def c_get_clock_guest(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "get_clock_guest", operation["vcpu"]

    def c_set_clock_guest(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A function of a vCPU's TSC."""
        vcpu = operation["vcpu"]
        others = (self._ns(operation[name]) for name in ("system_time", "multiplier", "shift"))
        return "set_clock_guest", vcpu, self._cycles(vcpu, operation["tsc_timestamp"]), *others

    def c_run(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Until the guest exits."""
        return "run_guest", operation["vcpu"]

    def c_guest_write(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """By the guest itself."""
        vcpu, msr = operation["vcpu"], operation["msr"]
        return "guest_write", vcpu, _msr(msr), self._of_msr(msr, vcpu, operation["value"])

    def c_read_steal_time(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """By a guest that does."""
        guest = self._guest_of.get(operation["vcpu"], "")
        if not guest or not PROGRAMS[guest].reads_steal_time:
            raise CannotExpressError(f"the guest {guest} does not read its steal time")
        return "read_steal_time", operation["vcpu"]

    def c_read_reference_time(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """By a guest that does."""
        guest = self._guest_of.get(operation["vcpu"], "")
        if not guest or not PROGRAMS[guest].reads_reference:
            raise CannotExpressError(f"the guest {guest} does not read its reference time")
        return "read_reference_time", operation["vcpu"]

    def c_set_hv_cpuid(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU, without a deadline timer."""
        if self._has_chip:
            raise CannotExpressError("a test in C has no Hyper-V's guest with an interrupt chip yet")
        return "set_hv_cpuid", operation["vcpu"]

    def c_read_tsc_page(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of the VM."""
        return ("read_tsc_page",)

    def c_set_xen(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of the VM."""
        return ("set_xen",)

    def c_set_xen_time(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "set_xen_time", operation["vcpu"]

    def c_read_xen_time(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "read_xen_time", operation["vcpu"]

    def c_read_xen_vcpu_info(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """The time of a vCPU in there."""
        return "read_xen_vcpu_info", operation["vcpu"]

    def c_read_xen_wall_clock(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of the VM."""
        return ("read_xen_wall_clock",)

    def c_set_xen_runstate(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "set_xen_runstate", operation["vcpu"]

    def c_read_xen_runstate(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Of a vCPU."""
        return "read_xen_runstate", operation["vcpu"]

    def c_enter_xen_runstate(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """One of the four states."""
        return "enter_xen_runstate", operation["vcpu"], runstate(operation["state"])

    def c_set_xen_runstate_times(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A state and four times."""
        times = map(self._ns, operation["times"])
        return "set_xen_runstate_times", operation["vcpu"], runstate(operation["state"]), *times

    def c_wait_for_cpu(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """Against another process."""
        return "wait_for_cpu", duration(operation["ns"])

    def c_move_thread(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """To another of the CPUs that may be used."""
        return "move_thread", operation["to"]

    def c_sleep(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A wait."""
        return "wait_ns", duration(operation["ns"])

    def _with_timer(self, operation: dict[str, Any]) -> int:
        """A vCPU whose guest takes its timer's interrupt."""
        vcpu: int = operation["vcpu"]
        guest = self._guest_of.get(vcpu, "")
        if not guest or not PROGRAMS[guest].awaits_timer:
            raise CannotExpressError(f"the guest {guest} does not take its timer's interrupt")
        return vcpu

    def _of_msr(self, msr: str, vcpu: int, value: Any) -> str:
        """A value for an MSR: that of a page's address says so."""
        for begins, address, size, called in _PAGES:
            place, rest = divmod(value - address, size) if isinstance(value, int) else (-1, 0)
            if msr.startswith(begins) and 0 <= place < MAX_VCPUS:
                return f"{called}({place}) + {rest}" if rest else f"{called}({place})"
        if msr == "HV_REFERENCE_TSC" and value in (TSC_PAGE, TSC_PAGE + 1):
            return f"TSC_PAGE + {value - TSC_PAGE}"
        return self._cycles(vcpu, value)

    def _cycles(self, vcpu: int, value: Any) -> str:
        return self._written(value, lambda ns: f"cycles({vcpu}, {duration(ns)})")

    def _ns(self, value: Any) -> str:
        return self._written(value, duration)

    def _written(self, value: Any, of_time: Any) -> str:
        """What a value to write stands for (player/values.py)."""
        if isinstance(value, int):
            return number(value)
        if "ns" in value:
            return str(of_time(value["ns"]))
        read = f"value_of(&{self._variables[value['read']]}, {value.get('place', 0)})"
        plus = self._written(value["plus"], of_time)
        if plus == "0":
            return read
        return f"{read} - {plus[1:]}" if plus.startswith("-") else f"{read} + {plus}"

    @staticmethod
    def _check_count(count: int) -> None:
        if count > 8:
            raise CannotExpressError(f"{count} MSRs at once are more than a test in C takes")
