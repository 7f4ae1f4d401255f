# SPDX-License-Identifier: GPL-2.0-or-later
"""MSRs that carry a guest's time (Intel SDM vol. 4; Documentation/virt/kvm/x86/msr.rst).

Those that begin with HV are a Hyper-V's (its Top Level Functional Specification).
"""

# Index by the name that scripts and traces use.
MSRS = {
    "TSC": 0x10,
    "WALL_CLOCK_OLD": 0x11,
    "SYSTEM_TIME_OLD": 0x12,
    "TSC_ADJUST": 0x3B,
    "TSC_DEADLINE": 0x6E0,
    "HV_GUEST_OS_ID": 0x40000000,
    "HV_HYPERCALL": 0x40000001,
    "HV_TIME_REF_COUNT": 0x40000020,
    "HV_REFERENCE_TSC": 0x40000021,
    "HV_TSC_FREQUENCY": 0x40000022,
    "HV_REENLIGHTENMENT_CONTROL": 0x40000106,
    "HV_TSC_EMULATION_CONTROL": 0x40000107,
    "WALL_CLOCK": 0x4B564D00,
    "SYSTEM_TIME": 0x4B564D01,
    "STEAL_TIME": 0x4B564D03,
}
