/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A vCPU's registers and state, and the page it shares with userspace. */

#define KVM_RUN 0x0000ae80
#define KVM_GET_REGS 0x8090ae81
#define KVM_SET_REGS 0x4090ae82
#define KVM_GET_SREGS 0x8138ae83
#define KVM_SET_SREGS 0x4138ae84
#define KVM_GET_LAPIC 0x8400ae8e
#define KVM_SET_LAPIC 0x4400ae8f
#define KVM_SET_CPUID2 0x4008ae90
#define KVM_GET_MP_STATE 0x8004ae98
#define KVM_SET_MP_STATE 0x4004ae99
#define KVM_GET_VCPU_EVENTS 0x8040ae9f
#define KVM_SET_VCPU_EVENTS 0x4040aea0

#define KVM_EXIT_UNKNOWN 0
#define KVM_EXIT_EXCEPTION 1
#define KVM_EXIT_IO 2
#define KVM_EXIT_HYPERCALL 3
#define KVM_EXIT_DEBUG 4
#define KVM_EXIT_HLT 5
#define KVM_EXIT_MMIO 6
#define KVM_EXIT_IRQ_WINDOW_OPEN 7
#define KVM_EXIT_SHUTDOWN 8
#define KVM_EXIT_FAIL_ENTRY 9
#define KVM_EXIT_INTR 10
#define KVM_EXIT_INTERNAL_ERROR 17
#define KVM_EXIT_SYSTEM_EVENT 24

#define KVM_MP_STATE_RUNNABLE 0
#define KVM_MP_STATE_UNINITIALIZED 1
#define KVM_MP_STATE_INIT_RECEIVED 2
#define KVM_MP_STATE_HALTED 3
#define KVM_MP_STATE_SIPI_RECEIVED 4

struct kvm_regs {
	uint64_t rax, rbx, rcx, rdx;
	uint64_t rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11;
	uint64_t r12, r13, r14, r15;
	uint64_t rip, rflags;
};

struct kvm_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type;
	uint8_t present, dpl, db, s, l, g, avl;
	uint8_t unusable;
	uint8_t padding;
};

struct kvm_dtable {
	uint64_t base;
	uint16_t limit;
	uint16_t padding[3];
};

struct kvm_sregs {
	struct kvm_segment cs, ds, es, fs, gs, ss;
	struct kvm_segment tr, ldt;
	struct kvm_dtable gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8;
	uint64_t efer;
	uint64_t apic_base;
	uint64_t interrupt_bitmap[4];
};

struct kvm_mp_state {
	uint32_t mp_state;
};

struct kvm_lapic_state {
	char regs[1024];
};

struct kvm_vcpu_events {
	struct {
		uint8_t injected;
		uint8_t nr;
		uint8_t has_error_code;
		uint8_t pending;
		uint32_t error_code;
	} exception;
	struct {
		uint8_t injected;
		uint8_t nr;
		uint8_t soft;
		uint8_t shadow;
	} interrupt;
	struct {
		uint8_t injected;
		uint8_t pending;
		uint8_t masked;
		uint8_t pad;
	} nmi;
	uint32_t sipi_vector;
	uint32_t flags;
	struct {
		uint8_t smm;
		uint8_t pending;
		uint8_t smm_inside_nmi;
		uint8_t latched_init;
	} smi;
	struct {
		uint8_t pending;
	} triple_fault;
	uint8_t reserved[26];
	uint8_t exception_has_payload;
	uint64_t exception_payload;
};

/*
 * Only the exits a tiny guest can cause are spelled out. The kernel pads the union to 256 bytes;
 * what follows it (synchronized registers) is not used here and not declared.
 */
struct kvm_run {
	uint8_t request_interrupt_window;
	uint8_t immediate_exit;
	uint8_t padding1[6];
	uint32_t exit_reason;
	uint8_t ready_for_interrupt_injection;
	uint8_t if_flag;
	uint16_t flags;
	uint64_t cr8;
	uint64_t apic_base;
	union {
		struct {
			uint64_t hardware_exit_reason;
		} hw;
		struct {
			uint64_t hardware_entry_failure_reason;
			uint32_t cpu;
		} fail_entry;
		struct {
			uint8_t direction;
			uint8_t size;
			uint16_t port;
			uint32_t count;
			uint64_t data_offset;
		} io;
		struct {
			uint64_t phys_addr;
			uint8_t data[8];
			uint32_t len;
			uint8_t is_write;
		} mmio;
		struct {
			uint32_t suberror;
			uint32_t ndata;
			uint64_t data[16];
		} internal;
		struct {
			uint32_t type;
			uint32_t ndata;
			uint64_t data[16];
		} system_event;
		char padding[256];
	};
};

#define KVM_XEN_VCPU_SET_ATTR 0x4048aecb

#define KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO 0
#define KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO 1
#define KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR 2
#define KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT 3
#define KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA 4

/* What a Xen's vCPU has; of the union only what we set. */
struct kvm_xen_vcpu_attr {
	uint16_t type;
	uint16_t pad[3];
	union {
		uint64_t gpa;
		uint64_t pad[8];
		struct {
			uint64_t state;
			uint64_t state_entry_time;
			uint64_t time_running;
			uint64_t time_runnable;
			uint64_t time_blocked;
			uint64_t time_offline;
		} runstate;
	} u;
};
