/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which ioctls are recorded, what is kept of threads and descriptors, and lines in general; KVM_RUNs, of which
 * many share a line. docs/recording.md says what the lines hold.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAX_MSRS 512
#define MAX_EXITS 48
#define STREAK_NS 100000000ull /* of KVM_RUNs that share a line */
#define UNKNOWN_EXIT 9999

enum kind { SYSTEM, VM, VCPU };

static const struct ioctl_kind {
	uint32_t number;
	const char *name;
} IOCTLS[] = {
	{ 0x0000ae80, "run" }, /* KVM_RUN first: it is the most frequent */
	{ 0x0000ae01, "create_vm" },
	{ 0x0000ae41, "create_vcpu" },
	{ 0xc008ae88, "get_msrs" },
	{ 0x4008ae89, "set_msrs" },
	{ 0x0000aea2, "set_tsc_khz" },
	{ 0x0000aea3, "get_tsc_khz" },
	{ 0x4030ae7b, "set_clock" },
	{ 0x8030ae7c, "get_clock" },
	{ 0x0000aead, "kvmclock_ctrl" },
	{ 0x4018aee1, "set_device_attr" },
	{ 0x4018aee2, "get_device_attr" },
	{ 0x4400ae8f, "set_lapic" },
	{ 0x8400ae8e, "get_lapic" },
	{ 0x4004ae99, "set_mp_state" },
	{ 0x8004ae98, "get_mp_state" },
};

static const struct {
	uint32_t index;
	const char *name;
} MSRS[] = {
	{ 0x10, "TSC" },
	{ 0x11, "WALL_CLOCK_OLD" },
	{ 0x12, "SYSTEM_TIME_OLD" },
	{ 0x3b, "TSC_ADJUST" },
	{ 0x6e0, "TSC_DEADLINE" },
	{ 0x4b564d00, "WALL_CLOCK" },
	{ 0x4b564d01, "SYSTEM_TIME" },
};

struct moment {
	uint64_t tsc;
	uint64_t ns;
};

struct object { /* what a file descriptor of a process is */
	struct object *next;
	int tgid;
	int fd;
	enum kind kind;
	uint32_t vm;
	uint32_t vcpu;
	uint64_t run_page; /* of a vCPU, in its process; 0 before it is known, 1 if it cannot be */
	/* KVM_RUNs between which nothing else was recorded of the VM */
	uint64_t runs;
	uint64_t of_event; /* how many lines of the VM came before */
	uint32_t thread;
	struct moment first, last;
	struct {
		int32_t reason;
		uint32_t count;
	} exits[MAX_EXITS];
};

struct thread {
	struct thread *next;
	int tid;
	int tgid;
	uint32_t number;
	const struct ioctl_kind *ioctl; /* that it is in, or NULL */
	struct object *object;
	int fd;
	uint64_t argument;
	struct moment before;
	uint32_t nmsrs;
};

struct msr_entry {
	uint32_t index;
	uint32_t reserved;
	uint64_t data;
};

static struct recording *progress;
static struct thread *threads;
static struct object *objects;
static uint64_t *events; /* lines of each VM */
static int output_fd, command_pid, whole_system_calls;
static volatile sig_atomic_t caught;
static char line[65536];
static size_t length;
static struct msr_entry msrs[MAX_MSRS];

static struct moment now(void)
{
	struct moment moment;
	struct timespec time;

	_mm_lfence();
	moment.tsc = __rdtsc();
	_mm_lfence();
	clock_gettime(CLOCK_MONOTONIC_RAW, &time);
	moment.ns = (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec - progress->ns_start;
	return moment;
}

/* Lines */

__attribute__((format(printf, 1, 2))) static void put(const char *format, ...)
{
	va_list arguments;
	int count;

	va_start(arguments, format);
	count = vsnprintf(line + length, sizeof(line) - length, format, arguments);
	va_end(arguments);
	if (count > 0 && (size_t)count < sizeof(line) - length)
		length += (size_t)count;
}

static void begin_line(const char *op, const struct object *object, uint32_t thread)
{
	length = 0;
	put("{\"op\": \"%s\", \"thread\": %u", op, thread);
	if (object && object->kind != SYSTEM)
		put(", \"vm\": %u", object->vm);
	if (object && object->kind == VCPU)
		put(", \"vcpu\": %u", object->vcpu);
}

static void end_line(struct moment before, struct moment after)
{
	size_t done = 0;

	if (after.tsc < before.tsc) /* another CPU's, on a host whose TSCs are not one */
		after.tsc = before.tsc;
	put(", \"tsc\": [%llu, %llu], \"ns\": [%llu, %llu]}\n", (unsigned long long)before.tsc,
	    (unsigned long long)after.tsc, (unsigned long long)before.ns, (unsigned long long)after.ns);
	while (done < length && !progress->write_error) {
		ssize_t count = write(output_fd, line + done, length - done);

		if (count > 0)
			done += (size_t)count;
		else if (count == 0 || errno != EINTR)
			progress->write_error = count ? errno : EIO;
	}
	if (!progress->write_error)
		__atomic_add_fetch(&progress->lines, 1, __ATOMIC_RELAXED);
}

/* KVM_RUN */

static void end_streak(struct object *vcpu)
{
	if (!vcpu->runs)
		return;
	begin_line("run", vcpu, vcpu->thread);
	put(", \"count\": %llu, \"exits\": [", (unsigned long long)vcpu->runs);
	for (size_t i = 0; i < MAX_EXITS && vcpu->exits[i].count; i++)
		put("%s[%d, %u]", i ? ", " : "", vcpu->exits[i].reason, vcpu->exits[i].count);
	put("]");
	end_line(vcpu->first, vcpu->last);
	vcpu->runs = 0;
	memset(vcpu->exits, 0, sizeof(vcpu->exits));
}

static void end_streaks(int tgid, const struct object *of_vm)
{
	for (struct object *each = objects; each; each = each->next)
		if (each->kind == VCPU && (tgid < 0 || each->tgid == tgid) && (!of_vm || each->vm == of_vm->vm))
			end_streak(each);
}

static void note_event(const struct object *object)
{
	if (object && object->kind != SYSTEM)
		events[object->vm]++;
}

static void begin_run(struct thread *thread)
{
	struct object *vcpu = thread->object;
	int after_event = vcpu->of_event != events[vcpu->vm] + 1;

	if (after_event || (vcpu->runs && thread->before.ns - vcpu->first.ns > STREAK_NS) ||
	    vcpu->thread != thread->number)
		end_streak(vcpu);
	if (!vcpu->runs) {
		vcpu->first = thread->before;
		vcpu->of_event = events[vcpu->vm] + 1;
		vcpu->thread = thread->number;
	}
	if (after_event) {
		begin_line("enter", vcpu, thread->number);
		end_line(thread->before, thread->before);
	}
}

static void end_run(struct thread *thread, int32_t reason, struct moment after)
{
	struct object *vcpu = thread->object;
	size_t i = 0;

	if (!vcpu->runs) /* those before it were written meanwhile */
		vcpu->first = thread->before;
	while (i < MAX_EXITS - 1 && vcpu->exits[i].count && vcpu->exits[i].reason != reason)
		i++;
	vcpu->exits[i].reason = reason;
	vcpu->exits[i].count++;
	vcpu->runs++;
	vcpu->last = after;
	/* An exit to userspace that may matter to whoever reads: nothing is kept back for long. */
	if (after.ns - vcpu->first.ns > STREAK_NS)
		end_streak(vcpu);
}
