# SPDX-License-Identifier: GPL-2.0-or-later
"""The styles of a test in C: plain, or as the kernel's own selftests are (tools/testing/selftests/kvm)."""

from typing import Any

from kvmharness.reproduce import guests
from kvmharness.reproduce.calls import Calls
from kvmharness.reproduce.names import CannotExpressError
from kvmharness.reproduce.story import Style, written
from kvmharness.scenarios import Scenario

_INCLUDES = (
    *("errno", "fcntl", "linux/kvm", "sched", "signal", "stdarg", "stdbool", "stdio", "stdlib", "string"),
    *("sys/ioctl", "sys/mman", "time", "unistd"),
)
_PLAIN = Style(
    name="plain",
    calls=Calls,
    guest=guests.code,
    includes="#define _GNU_SOURCE\n" + "".join(f"#include <{name}.h>\n" for name in _INCLUDES),
    build=lambda name: (
        f"Build: gcc -static -Wall -Wextra -Werror -o {name} {name}.c. It needs /dev/kvm and prints KTAP. "
        "Exit status: 0 it passes, 1 it fails, 4 nothing can be said."
    ),
    begin=("\topen_kvm();",),
    plan=True,
    end="return finish();",
)


class _SelftestCalls(Calls):
    """The calls, as far as pieces/selftest.c has them."""

    def c_create_vcpu(self, operation: dict[str, Any]) -> tuple[Any, ...]:
        """A guest is a function in C."""
        called, vcpu, guest = super().c_create_vcpu(operation)
        if guest not in ("&reads_tsc", "&reads_tsc_64"):
            raise CannotExpressError(f"the guest {operation['guest']} is none that a selftest has yet")
        return called, vcpu, "reads_tsc"

    def call(self, operation: dict[str, Any], name: str) -> str:
        """What a selftest has no function for, it cannot do."""
        call = super().call(operation, name)
        if call.startswith(_NOT_IN_SELFTESTS):
            raise CannotExpressError(f"{call.partition('(')[0]}() is nothing that a selftest has yet")
        return call


_NOT_IN_SELFTESTS = (
    *("set_msrs(", "get_msrs(", "set_vm_tsc_khz(", "set_clock_of(", "kvmclock_ctrl(", "read_page("),
    *("guest_write(", "get_tsc_scale(", "get_clock_guest(", "set_clock_guest("),
)
_READS_TSC = """static void reads_tsc(void)
{
	for (;;)
		GUEST_SYNC(rdtsc());
}"""
_SELFTEST = Style(
    name="selftest",
    calls=_SelftestCalls,
    guest=lambda guest: _READS_TSC,
    includes="#ifndef _GNU_SOURCE\n#define _GNU_SOURCE\n#endif\n"
    + "".join(f"#include <{name}.h>\n" for name in ("errno", "sched", "stdarg", "stdbool", "stdio", "time"))
    + "".join(f'\n#include "{name}.h"' for name in ("test_util", "kvm_util", "processor"))
    + "\n",
    build=lambda name: (
        f"Build: as {name.replace('-', '_')}_test.c in tools/testing/selftests/kvm/x86 (x86_64 before 6.14), "
        "with its name among TEST_GEN_PROGS in the Makefile."
    ),
    begin=(),
    plan=False,
    end="return 0;",
)


def plain(scenario: Scenario) -> str:
    """A test with nothing but <linux/kvm.h> and libc. CannotExpressError."""
    return written(scenario, _PLAIN)


def selftest(scenario: Scenario) -> str:
    """A test among the kernel's own. CannotExpressError."""
    return written(scenario, _SELFTEST)
