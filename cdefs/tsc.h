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
/* Of a series that is not merged ("Cleaning up the KVM clock mess", 2026), as are the next three. */
#define KVM_VCPU_TSC_SCALE 1
#define KVM_SET_CLOCK_GUEST 0x4020aed6
#define KVM_GET_CLOCK_GUEST 0x8020aed7

/* <asm/pvclock-abi.h> */
struct pvclock_vcpu_time_info {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

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
