/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a VMM's file descriptors are, and where its vCPUs' kvm_run pages lie. */

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
