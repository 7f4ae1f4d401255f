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
#define KVM_XEN_HVM_CONFIG 0x4038ae7a
#define KVM_XEN_HVM_SET_ATTR 0x4048aec9

#define KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL 2
#define KVM_XEN_ATTR_TYPE_SHARED_INFO 1

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

/* A VM that is to be a Xen's: the MSR by which its guest asks for a page of hypercalls. */
struct kvm_xen_hvm_config {
	uint32_t flags;
	uint32_t msr;
	uint64_t blob_addr_32;
	uint64_t blob_addr_64;
	uint8_t blob_size_32;
	uint8_t blob_size_64;
	uint8_t pad2[30];
};

/* What a Xen's VM has; of the union only what we set. */
struct kvm_xen_hvm_attr {
	uint16_t type;
	uint16_t pad[3];
	union {
		struct {
			uint64_t gfn;
		} shared_info;
		uint64_t pad[8];
	} u;
};
