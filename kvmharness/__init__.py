# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness: does a Linux kernel's KVM synchronize guest TSCs as it should?

The parts, in the order data flows through them: `script` (what to do), `player` (does it, on
`kvm` with the programs of `guests`), `trace` (what happened, between host clock readings),
`contract` (what userspace is entitled to), `verdict`, `report`. `scenarios` holds the scripts,
`lab` boots other kernels and plays inside them, `cli` is the command line.
"""

__version__ = "0.2.0.dev0"
