# SPDX-License-Identifier: GPL-2.0-or-later
"""A scenario as one C file: what a maintainer compiles, runs and keeps.

pieces     functions in C, of which a test gets those that it uses
guests     what a guest executes, as bytes with their assembly beside them
calls      an operation as a call
checks     a claim as a check
oracle     claims for a script without claims: what a policy predicts, what a script's shape entitles to
story      all of it in one file
styles     plain C, with nothing but <linux/kvm.h> and libc; or as the kernel's own selftests
"""

from collections.abc import Callable

from kvmharness.reproduce.names import CannotExpressError
from kvmharness.reproduce.styles import plain, selftest
from kvmharness.scenarios import Scenario

STYLES: dict[str, Callable[[Scenario], str]] = {"plain": plain, "selftest": selftest}

__all__ = ["STYLES", "CannotExpressError", "plain", "selftest"]
