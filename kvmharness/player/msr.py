# SPDX-License-Identifier: GPL-2.0-or-later
"""MSRs that carry a guest's time (Intel SDM vol. 4; Documentation/virt/kvm/x86/msr.rst)."""

# Index by the name that scripts and traces use.
MSRS = {
    "TSC": 0x10,
    "WALL_CLOCK_OLD": 0x11,
    "SYSTEM_TIME_OLD": 0x12,
    "TSC_ADJUST": 0x3B,
    "TSC_DEADLINE": 0x6E0,
    "WALL_CLOCK": 0x4B564D00,
    "SYSTEM_TIME": 0x4B564D01,
}
