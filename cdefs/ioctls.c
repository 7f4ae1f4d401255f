/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which ioctls are recorded, and how each becomes a line (docs/recording.md says what the lines hold). */
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

/* What file descriptors are */

static struct object *add_object(int tgid, int fd, enum kind kind, uint32_t vm, uint32_t vcpu)
{
	struct object *object;

	for (object = objects; object; object = object->next)
		if (object->tgid == tgid && object->fd == fd)
			break;
	if (object) {
		end_streak(object);
	} else {
		object = calloc(1, sizeof(*object));
		if (!object)
			abort();
		object->next = objects;
		objects = object;
	}
	object->tgid = tgid;
	object->fd = fd;
	object->kind = kind;
	object->vm = vm;
	object->vcpu = vcpu;
	object->run_page = 0;
	object->of_event = 0;
	progress->vcpus += kind == VCPU;
	return object;
}

static uint32_t new_vm(void)
{
	uint64_t *more = realloc(events, (progress->vms + 1) * sizeof(*events));

	if (!more)
		abort();
	events = more;
	events[progress->vms] = 0;
	return progress->vms++;
}

/* The VM that a descriptor found later belongs to: the last of its process in which it is not there yet. */
static uint32_t vm_of(int tgid, int vcpu)
{
	for (struct object *each = objects; each; each = each->next) {
		int there = 0;

		if (each->tgid != tgid || each->kind == SYSTEM)
			continue;
		for (struct object *other = objects; other && !there; other = other->next)
			there = other->tgid == tgid && other->vm == each->vm &&
				(vcpu < 0 ? other->kind == VM : other->kind == VCPU && other->vcpu == (uint32_t)vcpu);
		if (!there)
			return each->vm;
	}
	return new_vm();
}

/* A forked child inherits its parent's descriptors. */
static void inherit(int parent, int child)
{
	for (struct object *each = objects; each; each = each->next)
		if (each->tgid == parent) {
			struct object *copy = add_object(child, each->fd, each->kind, each->vm, each->vcpu);

			progress->vcpus -= each->kind == VCPU;
			copy->run_page = each->run_page;
		}
}

static struct object *look_up(const struct thread *thread, int fd)
{
	char path[64], name[64];
	ssize_t count;
	int vcpu;

	for (struct object *each = objects; each; each = each->next)
		if (each->tgid == thread->tgid && each->fd == fd)
			return each;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", thread->tid, fd);
	count = readlink(path, name, sizeof(name) - 1);
	name[count < 0 ? 0 : count] = '\0';
	if (sscanf(name, "anon_inode:kvm-vcpu:%d", &vcpu) == 1)
		return add_object(thread->tgid, fd, VCPU, vm_of(thread->tgid, vcpu), (uint32_t)vcpu);
	if (!strcmp(name, "anon_inode:kvm-vm"))
		return add_object(thread->tgid, fd, VM, vm_of(thread->tgid, -1), 0);
	return NULL;
}

/* Where a vCPU's kvm_run is mapped, by the name of the mapping: 1 if there is none, or more than one. */
static uint64_t find_run_page(const struct object *vcpu)
{
	char path[64], text[512], wanted[64];
	uint64_t found = 1;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", vcpu->tgid);
	snprintf(wanted, sizeof(wanted), "anon_inode:kvm-vcpu:%u\n", vcpu->vcpu);
	maps = fopen(path, "re");
	if (!maps)
		return 1;
	while (fgets(text, sizeof(text), maps)) {
		char *name = strstr(text, "anon_inode:kvm-vcpu:");

		if (!name || strcmp(name, wanted))
			continue;
		if (found != 1) {
			found = 1;
			break;
		}
		found = strtoull(text, NULL, 16);
	}
	fclose(maps);
	return found;
}

/* The VMM's memory */

static int peek(int tid, uint64_t address, void *to, size_t size)
{
	struct iovec here = { to, size }, there = { (void *)(uintptr_t)address, size };

	return process_vm_readv(tid, &here, 1, &there, 1, 0) == (ssize_t)size;
}

static uint32_t peek_msrs(const struct thread *thread)
{
	uint32_t head[2];

	if (!peek(thread->tid, thread->argument, head, sizeof(head)) || head[0] > MAX_MSRS)
		return 0;
	return peek(thread->tid, thread->argument + 8, msrs, head[0] * sizeof(msrs[0])) ? head[0] : 0;
}

static int32_t exit_reason(const struct thread *thread, int64_t result)
{
	struct object *vcpu = thread->object;
	uint32_t reason;

	if (result < 0)
		return (int32_t)result;
	if (!vcpu->run_page)
		vcpu->run_page = find_run_page(vcpu);
	if (vcpu->run_page == 1 || !peek(thread->tid, vcpu->run_page + 8, &reason, sizeof(reason)))
		return UNKNOWN_EXIT;
	return (int32_t)reason;
}

/* The ioctls' arguments and results */

static void put_msrs(uint32_t count)
{
	const char *comma = "";

	put(", \"count\": %u, \"msrs\": [", count);
	for (uint32_t i = 0; i < count; i++)
		for (size_t j = 0; j < COUNT(MSRS); j++)
			if (MSRS[j].index == msrs[i].index) {
				put("%s[\"%s\", %llu]", comma, MSRS[j].name,
				    (unsigned long long)msrs[i].data);
				comma = ", ";
			}
	put("]");
}

static int concern_time(uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		for (size_t j = 0; j < COUNT(MSRS); j++)
			if (MSRS[j].index == msrs[i].index)
				return 1;
	return 0;
}

static void put_clock(const struct thread *thread)
{
	struct {
		uint64_t clock;
		uint32_t flags, pad;
		uint64_t realtime, host_tsc;
	} data;

	if (!peek(thread->tid, thread->argument, &data, sizeof(data)))
		return;
	put(", \"clock\": %llu, \"flags\": %u", (unsigned long long)data.clock, data.flags);
	if (data.flags & 4)
		put(", \"realtime\": %llu", (unsigned long long)data.realtime);
	if (data.flags & 8)
		put(", \"host_tsc\": %llu", (unsigned long long)data.host_tsc);
}

static void put_attribute(const struct thread *thread)
{
	struct {
		uint32_t flags, group;
		uint64_t attr, addr;
	} data;
	uint64_t value;

	if (!peek(thread->tid, thread->argument, &data, sizeof(data)))
		return;
	put(", \"group\": %u, \"attr\": %llu", data.group, (unsigned long long)data.attr);
	if (data.group == 0 && peek(thread->tid, data.addr, &value, sizeof(value)))
		put(", \"value\": %llu", (unsigned long long)value);
}

static void put_mp_state(const struct thread *thread)
{
	uint32_t state;

	if (peek(thread->tid, thread->argument, &state, sizeof(state)))
		put(", \"mp_state\": %u", state);
}

/* What the program is called that creates a VM, without its path. */
static void put_program(const struct thread *thread)
{
	char path[64], exe[4096], *name;
	ssize_t count;

	snprintf(path, sizeof(path), "/proc/%d/exe", thread->tid);
	count = readlink(path, exe, sizeof(exe) - 1);
	if (count <= 0)
		return;
	exe[count] = '\0';
	name = strrchr(exe, '/');
	name = name ? name + 1 : exe;
	for (char *each = name; *each; each++)
		if (*each <= ' ' || *each > '~' || strchr("\"\\", *each))
			*each = '?';
	put(", \"program\": \"%.200s\"", name);
}

static void note_ioctl(struct thread *thread, int64_t result, struct moment after)
{
	const char *name = thread->ioctl->name;
	struct object *object = thread->object;
	int worked = result >= 0;

	if (!strcmp(name, "run")) {
		end_run(thread, exit_reason(thread, result), after);
		progress->ioctls++;
		return;
	}
	if (!strcmp(name, "create_vm") && worked)
		object = add_object(thread->tgid, (int)result, VM, new_vm(), 0);
	else if (!strcmp(name, "create_vcpu") && worked)
		object = add_object(thread->tgid, (int)result, VCPU, object->vm, (uint32_t)thread->argument);
	if (!strcmp(name, "set_msrs"))
		thread->nmsrs = peek_msrs(thread); /* the ioctl leaves them as they were */
	if (!strcmp(name, "get_msrs"))
		thread->nmsrs = peek_msrs(thread);
	if (strstr(name, "_msrs") && !concern_time(thread->nmsrs))
		return;
	if (object)
		end_streaks(-1, object);
	begin_line(name, object, thread->number);
	if (!worked)
		put(", \"errno\": %d", (int)-result);
	if (!strcmp(name, "create_vm"))
		put_program(thread);
	if (!strcmp(name, "create_vcpu") && !worked)
		put(", \"vcpu\": %u", (uint32_t)thread->argument);
	if (!strcmp(name, "set_msrs") || (!strcmp(name, "get_msrs") && worked)) {
		put_msrs(!strcmp(name, "get_msrs") && result < thread->nmsrs ? (uint32_t)result : thread->nmsrs);
		if (worked && result < thread->nmsrs)
			put(", \"done\": %d", (int)result);
	} else if (!strcmp(name, "set_tsc_khz")) {
		put(", \"khz\": %u", (uint32_t)thread->argument);
	} else if (!strcmp(name, "get_tsc_khz") && worked) {
		put(", \"khz\": %u", (uint32_t)result);
	} else if (!strcmp(name, "set_clock") || (!strcmp(name, "get_clock") && worked)) {
		put_clock(thread);
	} else if (strstr(name, "_device_attr")) {
		put_attribute(thread);
	} else if (!strcmp(name, "set_mp_state") || (!strcmp(name, "get_mp_state") && worked)) {
		put_mp_state(thread);
	}
	end_line(thread->before, after);
	note_event(object);
	progress->ioctls++;
}

/* Which of the objects takes which ioctl; of others with the same number nothing is recorded. */
static int is_of_kvm(const struct thread *thread)
{
	const char *name = thread->ioctl->name;

	if (!strcmp(name, "create_vm"))
		return 1;
	if (!thread->object)
		return 0;
	if (!strcmp(name, "create_vcpu") || strstr(name, "et_clock"))
		return thread->object->kind == VM;
	if (strstr(name, "tsc_khz") || !strcmp(name, "kvmclock_ctrl"))
		return thread->object->kind != SYSTEM;
	return thread->object->kind == VCPU;
}

static void begin_ioctl(struct thread *thread, uint64_t fd, uint64_t request, uint64_t argument)
{
	thread->ioctl = NULL;
	for (size_t i = 0; i < COUNT(IOCTLS); i++)
		if (IOCTLS[i].number == (uint32_t)request)
			thread->ioctl = &IOCTLS[i];
	if (!thread->ioctl)
		return;
	thread->fd = (int)fd;
	thread->argument = argument;
	thread->object = strcmp(thread->ioctl->name, "create_vm") ? look_up(thread, thread->fd) : NULL;
	if (!is_of_kvm(thread)) {
		thread->ioctl = NULL;
		return;
	}
	thread->before = now();
	if (!strcmp(thread->ioctl->name, "run"))
		begin_run(thread);
	else
		thread->before = now(); /* looking up is none of its time */
}

static void end_ioctl(struct thread *thread, int64_t result, struct moment after)
{
	/* -ERESTARTSYS and the like: it is made again, and the VMM does not see this end of it. */
	if (thread->ioctl && !(result <= -512 && result >= -516))
		note_ioctl(thread, result, after);
	thread->ioctl = NULL;
}
