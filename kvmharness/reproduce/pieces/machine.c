/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain C: the VM, its memory and its guests.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// page_address
/* Where the kvmclock page of a vCPU is in the guest's memory. */
static __u64 page_address(int vcpu)
{
	return 0x3800 + vcpu * TIME_SIZE;
}

//// XEN
#define XEN 0x7e000			/* where the pages of a Xen are in the guest's memory */

//// CODE RESULTS
/* The guest's memory: two pages for each vCPU, one with its code, one where it leaves what it read. */
#define CODE(vcpu) (0x4000 + (vcpu) * 0x2000)
#define RESULTS(vcpu) (CODE(vcpu) + 0x1000)

//// SAMPLES
#define SAMPLES 0x800			/* in the page of results */

//// MAILBOX_MSR MAILBOX_VALUE
#define MAILBOX_MSR 0x10		/* there, too: which MSR the guest is to write */
#define MAILBOX_VALUE 0x18

//// EXIT_PORT
#define EXIT_PORT 0x10			/* a guest leaves by an OUT to this port */

//// guest
/* What a vCPU executes: its code, how many TSCs it leaves each time it runs, how it is entered. */
struct guest {
	const __u8 *code;
	size_t size;
	int samples;
	__u16 fault, timer;		/* where in the code it goes on when the CPU refuses, when its timer fires */
	void (*enter)(const struct guest *guest, int vcpu, struct kvm_sregs *sregs, struct kvm_regs *regs);
};

//// vcpus kvm vm memory MEMORY_SIZE MAX_VCPUS guest_of
#define MAX_VCPUS 24
#define MEMORY_SIZE 0x80000		/* with room for what KVM tells the guests */

static int kvm, vm = -1;
static __u8 *memory;
static struct {
	int fd;
	struct kvm_run *run;
	const struct guest *guest;
	__s64 khz, first_khz;
} vcpus[MAX_VCPUS];

//// vm_fd
static int vm_fd(void)
{
	return vm;
}

//// vm_call
static int vm_call(unsigned long request, void *argument)
{
	return ioctl(vm_fd(), request, argument);
}

//// vcpu_call
static int vcpu_call(int vcpu, unsigned long request, void *argument)
{
	return ioctl(vcpus[vcpu].fd, request, argument);
}

//// guest_memory
static void *guest_memory(__u64 address)
{
	return memory + address;
}

//// skip_all
/* Nothing can be said here. */
__attribute__((noreturn)) static void skip_all(const char *why)
{
	if (!tests)
		printf("1..0 # SKIP %s\n", why);
	else
		printf("ok %d # SKIP %s\n", tests + 1, why);
	exit(4);
}

//// report
static void report(const char *text, enum result result)
{
	tests++;
	if (result == KEPT)
		printf("ok %d %s\n", tests, text);
	else if (result == BROKEN)
		printf("# %s\nnot ok %d %s\n", reason, tests, text);
	else
		printf("ok %d %s # SKIP %s\n", tests, text, reason);
	failed += result == BROKEN;
	skipped += result == UNDECIDED;
}

//// real_mode
static void set_segment(struct kvm_segment *segment, __u64 base)
{
	segment->base = base;
	segment->selector = base >> 4;
}

static void real_mode(const struct guest *guest, int vcpu, struct kvm_sregs *sregs, struct kvm_regs *regs)
{
	(void)guest;
	(void)regs;			/* the instruction pointer is 0, in its code segment */
	set_segment(&sregs->cs, CODE(vcpu));
	set_segment(&sregs->ds, RESULTS(vcpu));
}

//// real_mode_with_vectors
#define VECTORS 0x400			/* in the page of results */

/* All that the CPU raises in the guest goes to one place. */
static void real_mode_with_vectors(const struct guest *guest, int vcpu, struct kvm_sregs *sregs,
				   struct kvm_regs *regs)
{
	__u16 vector[2] = { guest->fault, CODE(vcpu) >> 4 };

	real_mode(guest, vcpu, sregs, regs);
	set_segment(&sregs->ss, RESULTS(vcpu));
	for (int i = 0; i < 32; i++)
		memcpy(memory + RESULTS(vcpu) + VECTORS + 4 * i, vector, 4);
	sregs->idt.base = RESULTS(vcpu) + VECTORS;
	sregs->idt.limit = 32 * 4 - 1;
}

//// long_mode
static void set_flat(struct kvm_segment *segment, int type)
{
	bool code = type == 0xb;

	*segment = (struct kvm_segment) {
		.limit = ~0u, .type = type, .present = 1, .s = 1, .g = 1,
		.l = code, .db = !code, .selector = code ? 0x8 : 0x10,
	};
}

/* Long mode; its page tables map the first 2 MiB one to one. */
static void long_mode(const struct guest *guest, int vcpu, struct kvm_sregs *sregs, struct kvm_regs *regs)
{
	const __u64 pml4 = 0x1000, pdpt = 0x2000, directory = 0x3000;
	__u64 entries[] = { pdpt | 3, directory | 3, 0x83 };

	(void)guest;
	memcpy(memory + pml4, &entries[0], 8);
	memcpy(memory + pdpt, &entries[1], 8);
	memcpy(memory + directory, &entries[2], 8);
	sregs->cr3 = pml4;
	sregs->cr4 |= 1 << 5;		/* PAE */
	sregs->cr0 |= 1u << 31 | 1;	/* PG, PE */
	sregs->efer |= 1 << 8 | 1 << 10;	/* LME, LMA */
	set_flat(&sregs->cs, 0xb);
	set_flat(&sregs->ds, 0x3);
	set_flat(&sregs->es, 0x3);
	set_flat(&sregs->ss, 0x3);
	regs->rip = CODE(vcpu);
	regs->rbx = RESULTS(vcpu);
}

//// create_vm
/* A new VM with memory and without vCPUs. */
static void create_vm(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY_SIZE };

	for (int i = 0; i < MAX_VCPUS; i++)
		if (vcpus[i].run) {
			munmap(vcpus[i].run, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
			close(vcpus[i].fd);
		}
	memset(vcpus, 0, sizeof(vcpus));
	if (vm >= 0)
		close(vm);
	if (memory)
		munmap(memory, MEMORY_SIZE);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (__u64)memory;
	if (vm < 0 || memory == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		skip_all("no VM can be created");
	steps = 0;
}

//// load_guest
static void load_guest(int vcpu, const struct guest *guest)
{
	/* Bit 1 of RFLAGS is always set; with interrupts on, the host's own can stop the guest. */
	struct kvm_regs regs = { .rflags = 0x202 };
	struct kvm_sregs sregs;

	memset(memory + RESULTS(vcpu), 0, 0x1000);
	memcpy(memory + CODE(vcpu), guest->code, guest->size);
	ioctl(vcpus[vcpu].fd, KVM_GET_SREGS, &sregs);
	guest->enter(guest, vcpu, &sregs, &regs);
	if (ioctl(vcpus[vcpu].fd, KVM_SET_SREGS, &sregs) || ioctl(vcpus[vcpu].fd, KVM_SET_REGS, &regs))
		skip_all("a vCPU's registers cannot be set");
}

//// set_cpuid
/* A vCPU that has all that KVM offers. */
static void set_cpuid(int vcpu)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[256]; } cpuid;

	cpuid.head.nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) || ioctl(vcpus[vcpu].fd, KVM_SET_CPUID2, &cpuid))
		skip_all("a vCPU's CPUID cannot be set");
}
