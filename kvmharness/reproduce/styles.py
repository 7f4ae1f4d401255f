# SPDX-License-Identifier: GPL-2.0-or-later
"""The styles of a test in C: plain, or as the kernel's own selftests are (tools/testing/selftests/kvm)."""

from typing import Any

from kvmharness.reproduce import guests
from kvmharness.reproduce.calls import Calls
from kvmharness.reproduce.names import CannotExpressError
from kvmharness.reproduce.story import Style, written
from kvmharness.scenarios import Scenario

# What few tests use, and by which they show it.
_FEW = {"sys/wait": "waitpid(", "sys/time": "setitimer("}
_INCLUDES = (
    *("errno", "fcntl", "linux/kvm", "sched", "signal", "stdarg", "stdbool", "stdio", "stdlib", "string"),
    *("sys/ioctl", "sys/mman", "sys/time", "sys/wait", "time", "unistd"),
)


def included(code: str) -> str:
    """The lines that include what plain C needs."""
    return f"#define _GNU_SOURCE\n{_lines(_INCLUDES, code)}"


def _lines(names: tuple[str, ...], code: str) -> str:
    wanted = [name for name in names if _FEW.get(name, "") in code]
    return "".join(f"#include <{name}.h>\n" for name in wanted)


_PLAIN = Style(
    name="plain",
    calls=Calls,
    guest=guests.code,
    includes=included,
    build=lambda name: (
        f"Build: gcc -static -Wall -Wextra -Werror -o {name} {name}.c. It needs /dev/kvm and prints KTAP. "
        "Exit status: 0 it passes, 1 it fails, 4 nothing can be said."
    ),
    begin=("\topen_kvm();",),
    plan=True,
    end="return finish();",
    shares="",
)
_SELFTEST_INCLUDES = ("errno", "sched", "stdarg", "stdbool", "stdio", "sys/wait", "time")


class _SelftestCalls(Calls):
    """The calls, as far as pieces/selftest*.c have them."""

    def c_create_vcpu(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A guest is a function in C."""
        called, vcpu, _ = super().c_create_vcpu(operation)
        guest = operation["guest"]
        if guest not in _SELFTEST_GUESTS:
            raise CannotExpressError(f"the guest {guest} is none that a selftest has yet")
        return called, vcpu, _SELFTEST_GUESTS[guest]

    def c_guest_write(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """One guest has a mailbox."""
        guest = self._guest_of.get(operation["vcpu"], "")
        if guest != "steal-16":
            raise CannotExpressError(f"the guest {guest} is none that writes MSRs in a selftest")
        return super().c_guest_write(operation)

    def call(self, operation: dict[str, Any], name: str) -> str:
        """What a selftest has no function for, it cannot do."""
        call = super().call(operation, name)
        if call.startswith(_NOT_IN_SELFTESTS):
            raise CannotExpressError(f"{call.partition('(')[0]}() is nothing that a selftest has yet")
        return call


_NOT_IN_SELFTESTS = (
    *("set_msrs(", "get_msrs(", "set_vm_tsc_khz(", "set_clock_of(", "get_tsc_scale("),
    *("get_clock_guest(", "set_clock_guest(", "create_irqchip("),
)
# The functions that guests are.
_SELFTEST_GUESTS = {"rdtsc-16": "reads_tsc", "rdtsc-64": "reads_tsc", "steal-16": "reads_steal_time"}
_SELFTEST = Style(
    name="selftest",
    calls=_SelftestCalls,
    guest=lambda guest: "",
    includes=lambda code: (
        f"#ifndef _GNU_SOURCE\n#define _GNU_SOURCE\n#endif\n{_lines(_SELFTEST_INCLUDES, code)}"
        + "".join(f'\n#include "{name}.h"' for name in ("test_util", "kvm_util", "processor"))
        + "\n"
    ),
    build=lambda name: (
        f"Build: as {name.replace('-', '_')}_test.c in tools/testing/selftests/kvm/x86 (x86_64 before 6.14), "
        "with its name among TEST_GEN_PROGS in the Makefile."
    ),
    begin=(),
    plan=False,
    end="return 0;",
    shares="share_memory",
)


def plain(scenario: Scenario) -> str:
    """A test with nothing but <linux/kvm.h> and libc. CannotExpressError."""
    return written(scenario, _PLAIN)


def selftest(scenario: Scenario) -> str:
    """A test among the kernel's own. CannotExpressError."""
    return written(scenario, _SELFTEST)
