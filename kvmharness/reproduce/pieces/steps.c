/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a step is, what comes of a check, and the host's clocks: for every style.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
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

//// TIME_SIZE
#define TIME_SIZE 0x20			/* of struct pvclock_vcpu_time_info, in bytes */

//// MAX_VALUES step
#define MAX_VALUES 9

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

//// tests failed skipped reason
static int tests, failed, skipped;
static char reason[512];		/* why something failed, or says nothing */

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
