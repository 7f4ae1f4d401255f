/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ioctls' arguments and results, read from the VMM's memory, as lines. */

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

/* What it was given or returned could not be read: the process was killed right after it. */
static void put_unseen(int worked)
{
	if (worked)
		put(", \"died\": true");
}

static void put_clock(const struct thread *thread, int worked)
{
	struct {
		uint64_t clock;
		uint32_t flags, pad;
		uint64_t realtime, host_tsc;
	} data;

	if (!peek(thread->tid, thread->argument, &data, sizeof(data))) {
		put_unseen(worked);
		return;
	}
	put(", \"clock\": %llu, \"flags\": %u", (unsigned long long)data.clock, data.flags);
	if (data.flags & 4)
		put(", \"realtime\": %llu", (unsigned long long)data.realtime);
	if (data.flags & 8)
		put(", \"host_tsc\": %llu", (unsigned long long)data.host_tsc);
}

static void put_attribute(const struct thread *thread, int worked)
{
	struct {
		uint32_t flags, group;
		uint64_t attr, addr;
	} data;
	uint64_t value;

	if (!peek(thread->tid, thread->argument, &data, sizeof(data))) {
		put_unseen(worked);
		return;
	}
	put(", \"group\": %u, \"attr\": %llu", data.group, (unsigned long long)data.attr);
	if (data.group != 0)
		return;
	if (peek(thread->tid, data.addr, &value, sizeof(value)))
		put(", \"value\": %llu", (unsigned long long)value);
	else
		put_unseen(worked);
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
		put_clock(thread, worked);
	} else if (strstr(name, "_device_attr")) {
		put_attribute(thread, worked);
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
