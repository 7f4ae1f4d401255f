/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM: its memory, its interrupt chip, its clock. */

#define KVM_CREATE_VCPU 0x0000ae41
#define KVM_SET_USER_MEMORY_REGION 0x4020ae46
#define KVM_SET_TSS_ADDR 0x0000ae47
#define KVM_SET_IDENTITY_MAP_ADDR 0x4008ae48
#define KVM_CREATE_IRQCHIP 0x0000ae60
#define KVM_SET_CLOCK 0x4030ae7b
#define KVM_GET_CLOCK 0x8030ae7c
#define KVM_ENABLE_CAP 0x4068aea3

#define KVM_CLOCK_TSC_STABLE 2
#define KVM_CLOCK_REALTIME 4
#define KVM_CLOCK_HOST_TSC 8

struct kvm_userspace_memory_region {
	uint32_t slot;
	uint32_t flags;
	uint64_t guest_phys_addr;
	uint64_t memory_size;
	uint64_t userspace_addr;
};

struct kvm_clock_data {
	uint64_t clock;
	uint32_t flags;
	uint32_t pad0;
	uint64_t realtime;
	uint64_t host_tsc;
	uint32_t pad[4];
};
