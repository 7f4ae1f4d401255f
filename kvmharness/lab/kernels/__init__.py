# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels: how users name them, where they come from, and what they are made of."""

from kvmharness.lab.kernels.names import (
    Cached,
    Kernel,
    cache_name,
    cached,
    find,
    keep_built,
    package_of,
    takes_modules,
)

__all__ = ["Cached", "Kernel", "cache_name", "cached", "find", "keep_built", "package_of", "takes_modules"]
