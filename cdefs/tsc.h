/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ways userspace sets a guest's TSC: kHz of a VM or a vCPU, MSRs, the offset attribute. */

#define KVM_SET_TSC_KHZ 0x0000aea2
#define KVM_GET_TSC_KHZ 0x0000aea3
#define KVM_GET_MSRS 0xc008ae88
#define KVM_SET_MSRS 0x4008ae89
#define KVM_KVMCLOCK_CTRL 0x0000aead
#define KVM_SET_DEVICE_ATTR 0x4018aee1
#define KVM_GET_DEVICE_ATTR 0x4018aee2
#define KVM_HAS_DEVICE_ATTR 0x4018aee3

#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0

struct kvm_msr_entry {
	uint32_t index;
	uint32_t reserved;
	uint64_t data;
};

struct kvm_msrs {
	uint32_t nmsrs;
	uint32_t pad;
	struct kvm_msr_entry entries[];
};

struct kvm_msr_list {
	uint32_t nmsrs;
	uint32_t indices[];
};

struct kvm_device_attr {
	uint32_t flags;
	uint32_t group;
	uint64_t attr;
	uint64_t addr;
};
