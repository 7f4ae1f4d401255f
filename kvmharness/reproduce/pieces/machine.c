/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The VM, its memory and its guests; what a step is, and how results are told.
 *
 * Pieces of tests in plain C: each begins with four slashes and the names that it defines. A test gets those whose
 * names it uses, in this order (../pieces.py).
 */

//// MS SECOND
#define MS 1000000LL			/* in ns */
#define SECOND (1000 * MS)

//// MSR_IA32_TSC
#define MSR_IA32_TSC 0x10

//// MSR_IA32_TSC_ADJUST
#define MSR_IA32_TSC_ADJUST 0x3b

//// MSR_IA32_TSC_DEADLINE
#define MSR_IA32_TSC_DEADLINE 0x6e0

//// MSR_KVM_WALL_CLOCK
#define MSR_KVM_WALL_CLOCK 0x11

//// MSR_KVM_SYSTEM_TIME
#define MSR_KVM_SYSTEM_TIME 0x12

//// MSR_KVM_WALL_CLOCK_NEW
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00

//// MSR_KVM_SYSTEM_TIME_NEW
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

//// KVM_VCPU_TSC_CTRL
/* Headers before 5.16 lack these. */
#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif

//// PAGE_STABLE
#define PAGE_STABLE 1			/* PVCLOCK_TSC_STABLE_BIT */

//// PAGE_STOPPED
#define PAGE_STOPPED 2			/* PVCLOCK_GUEST_STOPPED */

//// page_address
/* Where the kvmclock page of a vCPU is in the guest's memory. */
#define PAGE_SIZE 0x20

static __u64 page_address(int vcpu)
{
	return 0x3800 + vcpu * PAGE_SIZE;
}

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
	__u16 fault;			/* where in the code it goes on when the CPU refuses, or 0 */
	void (*enter)(const struct guest *guest, int vcpu, struct kvm_sregs *sregs, struct kvm_regs *regs);
};

//// MAX_VALUES step
#define MAX_VALUES 8

/*
 * One operation, between two readings of the host's TSC and of its raw clock. What KVM read of either lies in
 * between: that is the only tolerance of this test.
 */
struct step {
	const char *name;
	__u64 tsc_before, tsc_after;	/* cycles */
	__s64 ns_before, ns_after;
	int error;			/* an errno; 0 is success */
	int count;			/* of the values that it read or wrote */
	__u64 value[MAX_VALUES];
	bool has_tsc, has_offset, by_guest;
	__u64 tsc;			/* of the guest, if it has one */
	__u64 offset;			/* the TSC offset, if it has one */
	struct { __s64 ns_before, ns_after; } guest;	/* of a page: when the guest read that TSC */
};

//// vcpus kvm vm memory MEMORY_SIZE MAX_VCPUS guest_of
#define MAX_VCPUS 24
#define MEMORY_SIZE CODE(MAX_VCPUS)

static int kvm, vm = -1;
static __u8 *memory;
static struct {
	int fd;
	struct kvm_run *run;
	const struct guest *guest;
	__s64 khz, first_khz;
} vcpus[MAX_VCPUS];

//// tests failed skipped reason
static int tests, failed, skipped;
static char reason[512];		/* why something failed, or says nothing */

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

//// result
enum result { KEPT, BROKEN, UNDECIDED };

//// undecided
__attribute__((format(printf, 1, 2))) static enum result undecided(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	return UNDECIDED;
}

//// broken
__attribute__((format(printf, 1, 2))) static enum result broken(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	return BROKEN;
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

//// host_tsc
static __u64 host_tsc(void)
{
	__u32 low, high;

	asm volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (__u64)high << 32 | low;
}

//// raw_ns
static __s64 raw_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

//// clock_data KVM_CLOCK_REALTIME KVM_CLOCK_HOST_TSC
/* struct kvm_clock_data as it is since 5.16; older kernels leave what they do not know at 0. */
struct clock_data {
	__u64 clock;			/* ns */
	__u32 flags, pad0;
	__u64 realtime;			/* ns */
	__u64 host_tsc;			/* cycles */
	__u32 pad[4];
};

#ifndef KVM_CLOCK_REALTIME
#define KVM_CLOCK_REALTIME (1 << 2)
#define KVM_CLOCK_HOST_TSC (1 << 3)
#endif

//// MAX_STEPS
#define MAX_STEPS 256

//// brackets steps
/* When each step was made: how fast the host's TSC counts is measured by them. */
static struct { __u64 tsc_before, tsc_after; __s64 ns_before, ns_after; } brackets[MAX_STEPS];
static int steps;

//// begin
static struct step begin(const char *name)
{
	struct step step = { .name = name };

	step.tsc_before = host_tsc();
	step.ns_before = raw_ns();
	return step;
}

//// end
/* `result` is what the system call returned. */
static void end(struct step *step, int result)
{
	step->error = result < 0 ? errno : 0;
	step->ns_after = raw_ns();
	step->tsc_after = host_tsc();
	if (steps < MAX_STEPS) {
		brackets[steps].tsc_before = step->tsc_before;
		brackets[steps].tsc_after = step->tsc_after;
		brackets[steps].ns_before = step->ns_before;
		brackets[steps++].ns_after = step->ns_after;
	}
}

//// value_of
/* What a step read, for a later one to write. */
static __u64 value_of(const struct step *step, int place)
{
	static char why[128];

	if (step->error || place >= step->count) {
		snprintf(why, sizeof(why), "step %s read nothing: %s", step->name, strerror(step->error));
		skip_all(why);
	}
	return step->value[place];
}

//// cycles
/* As many cycles as the TSC of a vCPU counts in so many ns. */
static __u64 cycles(int vcpu, __s64 ns)
{
	__int128 product = (__int128)ns * vcpus[vcpu].khz;

	return product / 1000000 - (product % 1000000 < 0);
}

//// off_by_ppm
/* The rate that a vCPU had first, and so many millionths more. */
static __u32 off_by_ppm(int vcpu, __s64 ppm)
{
	return vcpus[vcpu].first_khz * (1000000 + ppm) / 1000000;
}

//// vm_off_by_ppm
/* What KVM says that vCPUs of this VM start with, and so many millionths more. */
static __u32 vm_off_by_ppm(__s64 ppm)
{
	__s64 khz = ioctl(vm, KVM_GET_TSC_KHZ, 0);

	if (khz < 0)
		skip_all("this KVM does not say what rate the VM's vCPUs start with");
	return khz * (1000000 + ppm) / 1000000;
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

