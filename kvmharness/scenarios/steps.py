# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps that several scenarios have in common."""

from kvmharness.script import GetMsrs, GetTscOffset, Run, Script

# Reads the TSCs of vCPUs 0 and 1 in every way there is: by the offset, which kernels before 5.16
# lack, by the MSR, and by a guest.
READ_BOTH: Script = (
    GetTscOffset(vcpu=0, label="offset-0"),
    GetTscOffset(vcpu=1, label="offset-1"),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc-0"),
    GetMsrs(vcpu=1, indices=("TSC",), label="tsc-1"),
    Run(vcpu=0, label="guest-0"),
    Run(vcpu=1, label="guest-1"),
)

# The same of vCPU 0 alone.
READ_ONE: Script = (
    GetTscOffset(vcpu=0, label="offset"),
    GetMsrs(vcpu=0, indices=("TSC",), label="tsc"),
    Run(vcpu=0, label="guest"),
)
