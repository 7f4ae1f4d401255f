# SPDX-License-Identifier: GPL-2.0-or-later
"""Every rule that was merged or proposed for kernel bug 217423, each with its source."""

from kvmharness.model.policy import Policy

_LIST = "linux kernel mailing list, 'KVM: x86/tsc: Update guest tsc_offset again before vcpu first runs'"
_MSR_WRITES = frozenset({"zero", "value"})
_USER_SET = frozenset({"user-set-tsc"})

POLICIES = {
    policy.name: policy
    for policy in (
        Policy(
            "mainline-before-6.7",
            "A write within a second of the last one snaps to the current generation, whoever wrote that.",
            "kvm_synchronize_tsc() in Linux 6.6 and earlier",
        ),
        Policy(
            "like-xu-v1",
            "As before 6.7, but a load on another CPU before the first run lets the vCPU go on from the last "
            "value written.",
            f"{_LIST}, v1, Like Xu, 30 June 2023",
            reloads="before-first-run",
        ),
        Policy(
            "sean-christopherson",
            "Only a vCPU that has run can snap.",
            f"{_LIST}, reply of Sean Christopherson, 29 June 2023",
            snap_requires=frozenset({"vcpu-has-run"}),
        ),
        Policy(
            "like-xu-v2",
            "Writes snap only when another vCPU is matched with the current generation.",
            f"{_LIST}, v2, Like Xu, 2023",
            snap_requires=frozenset({"vcpus-matched"}),
        ),
        Policy(
            "oliver-upton",
            "Writes snap once userspace has written an MSR_IA32_TSC of the VM; the offset attribute does not "
            "count.",
            f"{_LIST}, reply of Oliver Upton, 30 June 2023; Like Xu's v3, v4 and v5",
            snap_requires=_USER_SET,
            user_set_by=_MSR_WRITES,
        ),
        Policy(
            "like-xu-v6",
            "Writes snap once userspace has written a TSC other than 0, or set an offset.",
            f"{_LIST}, v6, Like Xu, 2023",
            snap_requires=_USER_SET,
            user_set_by=frozenset({"value", "attribute"}),
        ),
        Policy(
            "mainline-6.7",
            "Writes snap once userspace has set a TSC of the VM, by MSR_IA32_TSC or by the offset attribute.",
            "commit bf328e22e472, Linux 6.7 and later; Like Xu's v7",
            snap_requires=_USER_SET,
        ),
        Policy(
            "clock-series-2026",
            "As 6.7, but a write that snapped is remembered as the TSC which the vCPU really has.",
            "linux kernel mailing list, the series that cleans up KVM's clocks, v6, 3 July 2026, patch 19 of "
            "36, unmerged. Of the series this alone: what it changes about the masterclock and "
            "KVM_SET_TSC_KHZ is not modelled",
            snap_requires=_USER_SET,
            snap_records="guest",
        ),
        Policy(
            "clock-series-2026-origin",
            "As 6.7, but of a generation only its first write is remembered.",
            "linux kernel mailing list, patch 20 of the same series, and of it this alone",
            snap_requires=_USER_SET,
            snap_records="origin",
        ),
        Policy(
            "clock-series-2026-khz",
            "As 6.7, but KVM_SET_TSC_KHZ of a vCPU, and its creation, write the TSC it had just before as if "
            "userspace had.",
            "linux kernel mailing list, patch 30 of the same series, and of it this alone",
            snap_requires=_USER_SET,
            khz_write="synchronizes",
        ),
        Policy(
            "tsc-protected",
            "Writes and the offset attribute are accepted and do nothing.",
            "SEV-SNP Secure TSC, Intel TDX; also some hosts that are virtual machines themselves",
            honours_writes=False,
        ),
    )
}

EXPECTED = "mainline-6.7"
