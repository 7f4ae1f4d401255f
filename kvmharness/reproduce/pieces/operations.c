/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain C: the operations, each between two readings of the host's clocks.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// create_vcpu
static struct step create_vcpu(const char *name, int vcpu, const struct guest *guest)
{
	struct step step = begin(name);
	int fd = ioctl(vm, KVM_CREATE_VCPU, vcpu);

	end(&step, fd);
	if (fd < 0)
		skip_all("a vCPU cannot be created");
	vcpus[vcpu].fd = fd;
	vcpus[vcpu].guest = guest;
	vcpus[vcpu].run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
			       MAP_SHARED, fd, 0);
	if (vcpus[vcpu].run == MAP_FAILED)
		skip_all("a vCPU's shared page cannot be mapped");
	set_cpuid(vcpu);
	load_guest(vcpu, guest);
	vcpus[vcpu].khz = vcpus[vcpu].first_khz = ioctl(fd, KVM_GET_TSC_KHZ, 0);
	step.has_tsc = true;		/* KVM has it begin with a TSC of 0 */
	step.count = 1;
	step.value[0] = vcpus[vcpu].khz;
	return step;
}

//// get_msrs
/* One KVM_GET_MSRS of `count` MSRs. */
static struct step get_msrs(const char *name, int vcpu, int count, const __u32 *indices)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry entry[MAX_VALUES]; } msrs = { .head.nmsrs = count };
	struct step step;
	int done;

	for (int i = 0; i < count; i++)
		msrs.entry[i].index = indices[i];
	step = begin(name);
	done = ioctl(vcpus[vcpu].fd, KVM_GET_MSRS, &msrs);
	if (done >= 0 && done < count)
		errno = EINVAL;		/* KVM says how many it read, not why it stopped */
	end(&step, done < count ? -1 : 0);
	step.count = step.error ? 0 : count;
	for (int i = step.count - 1; i >= 0; i--) {
		step.value[i] = msrs.entry[i].data;
		if (indices[i] == 0x10) {
			step.has_tsc = true;
			step.tsc = step.value[i];
		}
	}
	return step;
}

//// get_msr
static struct step get_msr(const char *name, int vcpu, __u32 index)
{
	return get_msrs(name, vcpu, 1, &index);
}

//// set_msrs
/* One KVM_SET_MSRS of `count` MSRs, in their order. */
static struct step set_msrs(const char *name, int vcpu, int count, const struct kvm_msr_entry *entries)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry entry[MAX_VALUES]; } msrs = { .head.nmsrs = count };
	struct step step;
	int done;

	memcpy(msrs.entry, entries, count * sizeof(*entries));
	step = begin(name);
	done = ioctl(vcpus[vcpu].fd, KVM_SET_MSRS, &msrs);
	if (done >= 0 && done < count)
		errno = EINVAL;		/* KVM says how many it wrote, not why it stopped */
	end(&step, done < count ? -1 : 0);
	step.count = count;
	for (int i = count - 1; i >= 0; i--) {
		step.value[i] = entries[i].data;
		if (entries[i].index == 0x10) {
			step.has_tsc = true;
			step.tsc = entries[i].data;
		}
	}
	return step;
}

//// set_msr
static struct step set_msr(const char *name, int vcpu, __u32 index, __u64 data)
{
	struct kvm_msr_entry entry = { .index = index, .data = data };

	return set_msrs(name, vcpu, 1, &entry);
}

//// offset_attribute
static struct step offset_attribute(const char *name, int vcpu, unsigned long request, __u64 offset)
{
	struct kvm_device_attr attribute = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (__u64)&offset,
	};
	struct step step = begin(name);

	end(&step, ioctl(vcpus[vcpu].fd, request, &attribute));
	step.has_offset = true;
	step.offset = step.value[0] = offset;
	step.count = request == KVM_SET_DEVICE_ATTR || !step.error;
	return step;
}

//// get_tsc_offset
/* The offset in cycles, modulo 2^64. Kernels before 5.16 do not know the attribute. */
static struct step get_tsc_offset(const char *name, int vcpu)
{
	return offset_attribute(name, vcpu, KVM_GET_DEVICE_ATTR, 0);
}

//// set_tsc_offset
static struct step set_tsc_offset(const char *name, int vcpu, __u64 offset)
{
	return offset_attribute(name, vcpu, KVM_SET_DEVICE_ATTR, offset);
}

//// get_tsc_scale
#ifndef KVM_VCPU_TSC_SCALE
#define KVM_VCPU_TSC_SCALE 1
#endif

/* The ratio by which the TSC is the host's, and the ratio's fraction bits. No release knows the attribute. */
static struct step get_tsc_scale(const char *name, int vcpu)
{
	__u64 scale[2] = { 0 };
	struct kvm_device_attr attribute = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_SCALE, .addr = (__u64)scale,
	};
	struct step step = begin(name);

	end(&step, ioctl(vcpus[vcpu].fd, KVM_GET_DEVICE_ATTR, &attribute));
	step.count = step.error ? 0 : 2;
	step.value[0] = scale[0];
	step.value[1] = scale[1];
	return step;
}

//// get_tsc_khz
static struct step get_tsc_khz(const char *name, int vcpu)
{
	struct step step = begin(name);
	int khz = ioctl(vcpus[vcpu].fd, KVM_GET_TSC_KHZ, 0);

	end(&step, khz);
	step.count = !step.error;
	step.value[0] = khz;
	return step;
}

//// set_tsc_khz
/* 0 stands for the host's own rate. */
static struct step set_tsc_khz(const char *name, int vcpu, __u32 khz)
{
	struct step step = begin(name);

	end(&step, ioctl(vcpus[vcpu].fd, KVM_SET_TSC_KHZ, khz));
	if (!step.error)
		vcpus[vcpu].khz = khz ? khz : (__u32)ioctl(vcpus[vcpu].fd, KVM_GET_TSC_KHZ, 0);
	step.count = 1;
	step.value[0] = khz;
	return step;
}

//// set_vm_tsc_khz
/* What vCPUs to come start with. */
static struct step set_vm_tsc_khz(const char *name, __u32 khz)
{
	struct step step = begin(name);

	end(&step, ioctl(vm, KVM_SET_TSC_KHZ, khz));
	step.count = 1;
	step.value[0] = khz;
	return step;
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

//// get_clock
/* The clock (ns), its flags, and if KVM says them the host's real time (ns) and TSC of that moment. */
static struct step get_clock(const char *name)
{
	struct clock_data data = { 0 };
	struct step step = begin(name);

	end(&step, ioctl(vm, KVM_GET_CLOCK, &data));
	step.value[0] = data.clock;
	step.value[1] = data.flags;
	step.value[2] = data.realtime;
	step.value[3] = data.host_tsc;
	if (!step.error)
		step.count = data.flags & KVM_CLOCK_REALTIME && data.flags & KVM_CLOCK_HOST_TSC ? 4 : 2;
	return step;
}

//// set_clock
static struct step set_clock(const char *name, __u64 ns)
{
	struct clock_data data = { .clock = ns };
	struct step step = begin(name);

	end(&step, ioctl(vm, KVM_SET_CLOCK, &data));
	step.count = 1;
	step.value[0] = ns;
	return step;
}

//// set_clock_of
/* The clock that the VM had at this real time: KVM adds what has passed since. */
static struct step set_clock_of(const char *name, __u64 ns, __u64 realtime)
{
	struct clock_data data = { .clock = ns, .flags = KVM_CLOCK_REALTIME, .realtime = realtime };
	struct step step = begin(name);

	end(&step, ioctl(vm, KVM_SET_CLOCK, &data));
	step.count = 2;
	step.value[0] = ns;
	step.value[1] = realtime;
	return step;
}

//// check_survived
/* A guest leaves KVM_RUN by its OUT alone. */
static void check_survived(const char *name, int vcpu)
{
	if (vcpus[vcpu].run->exit_reason == KVM_EXIT_IO)
		return;
	printf("# the guest of step %s did not survive: KVM_RUN came back with exit reason %u\n"
	       "not ok %d a guest survives\n", name, vcpus[vcpu].run->exit_reason, ++tests);
	exit(1);
}

//// run_guest
static struct step run_guest(const char *name, int vcpu)
{
	const struct guest *guest = vcpus[vcpu].guest;
	__u64 *samples = (__u64 *)(memory + RESULTS(vcpu) + SAMPLES);
	struct step step;

	memset(samples, 0, 8 * guest->samples);
	step = begin(name);
	do
		end(&step, ioctl(vcpus[vcpu].fd, KVM_RUN, 0));
	while (step.error == EINTR);
	step.by_guest = true;
	if (!step.error)
		check_survived(name, vcpu);
	while (step.count < guest->samples && samples[step.count]) {
		step.tsc = step.value[step.count] = samples[step.count];
		step.count++;
	}
	step.has_tsc = step.count > 0;
	last_run[vcpu] = step;
	return step;
}

//// guest_write
/* The guest executes WRMSR: what it is to write, and its TSC just before and just after. */
static struct step guest_write(const char *name, int vcpu, __u32 msr, __u64 data)
{
	struct step step;

	memcpy(memory + RESULTS(vcpu) + MAILBOX_VALUE, &data, sizeof(data));
	memcpy(memory + RESULTS(vcpu) + MAILBOX_MSR, &msr, sizeof(msr));
	step = run_guest(name, vcpu);
	step.by_guest = false;
	memmove(step.value + 1, step.value, 2 * sizeof(step.value[0]));
	step.value[0] = data;
	step.count++;
	step.has_tsc = true;
	step.tsc = msr == 0x10 ? data : step.value[step.count - 1];
	last_run[vcpu] = step;
	return step;
}

//// clock_page KVM_GET_CLOCK_GUEST KVM_SET_CLOCK_GUEST
/* struct pvclock_vcpu_time_info, and the ioctls that take it, which no release knows. */
struct clock_page {
	__u32 version, pad0;
	__u64 tsc;			/* cycles */
	__u64 time;			/* ns */
	__u32 multiplier;
	signed char shift;
	__u8 flags, pad[2];
};

#ifndef KVM_GET_CLOCK_GUEST
#define KVM_SET_CLOCK_GUEST _IOW(KVMIO, 0xd6, struct clock_page)
#define KVM_GET_CLOCK_GUEST _IOR(KVMIO, 0xd7, struct clock_page)
#endif

//// get_clock_guest
/* The clock as a function of the vCPU's TSC: as read_page(), of a page that was written. */
static struct step get_clock_guest(const char *name, int vcpu)
{
	struct clock_page page = { 0 };
	struct step step = begin(name);

	end(&step, ioctl(vcpus[vcpu].fd, KVM_GET_CLOCK_GUEST, &page));
	step.count = step.error ? 0 : 6;
	step.value[0] = step.count ? 2 : 0;	/* KVM reports no version */
	step.value[1] = page.tsc;
	step.value[2] = page.time;
	step.value[3] = page.multiplier;
	step.value[4] = (__u8)page.shift;
	step.value[5] = page.flags;
	if (last_run[vcpu].has_tsc && !last_run[vcpu].error)
		step.tsc = last_run[vcpu].tsc;
	return step;
}

//// set_clock_guest
/* The clock is to go on as this function of the vCPU's TSC. */
static struct step set_clock_guest(const char *name, int vcpu, __u64 tsc, __u64 time, __u64 multiplier,
				   __u64 shift)
{
	struct clock_page page = { .tsc = tsc, .time = time, .multiplier = multiplier, .shift = shift };
	struct step step = begin(name);

	end(&step, ioctl(vcpus[vcpu].fd, KVM_SET_CLOCK_GUEST, &page));
	step.count = 4;
	step.value[0] = tsc;
	step.value[1] = time;
	step.value[2] = page.multiplier;
	step.value[3] = (__u8)page.shift;
	return step;
}

//// wait_ns
static struct step wait_ns(const char *name, __s64 ns)
{
	struct timespec left = { ns / 1000000000, ns % 1000000000 };
	struct step step = begin(name);

	while (nanosleep(&left, &left) && errno == EINTR)
		;
	end(&step, 0);
	return step;
}
