/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /dev/kvm itself, and what a CPU of this host can offer to a guest. */

#define KVM_API_VERSION 12

#define KVM_GET_API_VERSION 0x0000ae00
#define KVM_CREATE_VM 0x0000ae01
#define KVM_GET_MSR_INDEX_LIST 0xc004ae02
#define KVM_CHECK_EXTENSION 0x0000ae03
#define KVM_GET_VCPU_MMAP_SIZE 0x0000ae04
#define KVM_GET_SUPPORTED_CPUID 0xc008ae05
/* Of a vCPU: what it can offer to a guest that takes it for a Hyper-V. */
#define KVM_GET_SUPPORTED_HV_CPUID 0xc008aec1

#define KVM_CAP_IRQCHIP 0
#define KVM_CAP_USER_MEMORY 3
#define KVM_CAP_SET_TSS_ADDR 4
#define KVM_CAP_EXT_CPUID 7
#define KVM_CAP_NR_VCPUS 9
#define KVM_CAP_MP_STATE 14
#define KVM_CAP_SET_IDENTITY_MAP_ADDR 37
#define KVM_CAP_ADJUST_CLOCK 39
#define KVM_CAP_VCPU_EVENTS 41
#define KVM_CAP_HYPERV 44
#define KVM_CAP_ENABLE_CAP 54
#define KVM_CAP_TSC_CONTROL 60
#define KVM_CAP_GET_TSC_KHZ 61
#define KVM_CAP_MAX_VCPUS 66
#define KVM_CAP_TSC_DEADLINE_TIMER 72
#define KVM_CAP_KVMCLOCK_CTRL 76
#define KVM_CAP_HYPERV_TIME 96
#define KVM_CAP_ENABLE_CAP_VM 98
#define KVM_CAP_CHECK_EXTENSION_VM 105
#define KVM_CAP_VCPU_ATTRIBUTES 127
#define KVM_CAP_IMMEDIATE_EXIT 136
#define KVM_CAP_HYPERV_CPUID 167
#define KVM_CAP_VM_TSC_CONTROL 214

struct kvm_cpuid_entry2 {
	uint32_t function;
	uint32_t index;
	uint32_t flags;
	uint32_t eax;
	uint32_t ebx;
	uint32_t ecx;
	uint32_t edx;
	uint32_t padding[3];
};

struct kvm_cpuid2 {
	uint32_t nent;
	uint32_t padding;
	struct kvm_cpuid_entry2 entries[];
};

struct kvm_enable_cap {
	uint32_t cap;
	uint32_t flags;
	uint64_t args[4];
	uint8_t pad[64];
};
