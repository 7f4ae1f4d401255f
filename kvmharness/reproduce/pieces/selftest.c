/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own selftests: operations by kvm_util.h.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// reads_tsc
static void reads_tsc(int vcpu)
{
	for (;;)
		GUEST_SYNC(rdtsc());
}

//// create_vcpu
/* The guest is a function that takes the number of its vCPU. */
static struct step create_vcpu(const char *name, int vcpu, void *guest)
{
	struct step step = begin(name);

	vcpus[vcpu].vcpu = vm_vcpu_add(vm, vcpu, guest);
	end(&step, 0);
	vcpu_args_set(vcpus[vcpu].vcpu, 1, (uint64_t)vcpu);
	vcpus[vcpu].khz = vcpus[vcpu].first_khz = __vcpu_ioctl(vcpus[vcpu].vcpu, KVM_GET_TSC_KHZ, NULL);
	step.has_tsc = true;		/* KVM has it begin with a TSC of 0 */
	step.count = 1;
	step.value[0] = vcpus[vcpu].khz;
	return step;
}

//// get_msr
static struct step get_msr(const char *name, int vcpu, __u32 index)
{
	struct step step = begin(name);

	step.value[0] = vcpu_get_msr(vcpus[vcpu].vcpu, index);
	end(&step, 0);
	step.count = 1;
	step.has_tsc = index == MSR_IA32_TSC;
	step.tsc = step.value[0];
	return step;
}

//// set_msr
static struct step set_msr(const char *name, int vcpu, __u32 index, __u64 data)
{
	struct step step = begin(name);
	int done = _vcpu_set_msr(vcpus[vcpu].vcpu, index, data);

	if (!done)
		errno = EINVAL;		/* KVM says how many it wrote, not why it stopped */
	end(&step, done == 1 ? 0 : -1);
	step.count = 1;
	step.has_tsc = index == MSR_IA32_TSC;
	step.tsc = step.value[0] = data;
	return step;
}

//// get_tsc_offset
static struct step get_tsc_offset(const char *name, int vcpu)
{
	struct step step = begin(name);

	end(&step, __vcpu_device_attr_get(vcpus[vcpu].vcpu, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &step.offset));
	step.has_offset = true;
	step.count = !step.error;
	step.value[0] = step.offset;
	return step;
}

//// set_tsc_offset
static struct step set_tsc_offset(const char *name, int vcpu, __u64 offset)
{
	struct step step = begin(name);

	end(&step, __vcpu_device_attr_set(vcpus[vcpu].vcpu, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &offset));
	step.has_offset = true;
	step.count = 1;
	step.offset = step.value[0] = offset;
	return step;
}

//// get_tsc_khz
static struct step get_tsc_khz(const char *name, int vcpu)
{
	struct step step = begin(name);
	int khz = __vcpu_ioctl(vcpus[vcpu].vcpu, KVM_GET_TSC_KHZ, NULL);

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

	end(&step, __vcpu_ioctl(vcpus[vcpu].vcpu, KVM_SET_TSC_KHZ, (void *)(unsigned long)khz));
	if (!step.error)
		vcpus[vcpu].khz = khz ? khz : (__u32)__vcpu_ioctl(vcpus[vcpu].vcpu, KVM_GET_TSC_KHZ, NULL);
	step.count = 1;
	step.value[0] = khz;
	return step;
}

//// get_clock
/* The clock (ns), its flags, and if KVM says them the host's real time (ns) and TSC of that moment. */
static struct step get_clock(const char *name)
{
	struct clock_data data = { 0 };
	struct step step = begin(name);

	end(&step, __vm_ioctl(vm, KVM_GET_CLOCK, &data));
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

	end(&step, __vm_ioctl(vm, KVM_SET_CLOCK, &data));
	step.count = 1;
	step.value[0] = ns;
	return step;
}

//// run_guest
static struct step run_guest(const char *name, int vcpu)
{
	struct step step = begin(name);
	struct ucall uc;

	vcpu_run(vcpus[vcpu].vcpu);
	end(&step, 0);
	TEST_ASSERT(get_ucall(vcpus[vcpu].vcpu, &uc) == UCALL_SYNC, "step %s: the guest of vCPU %d did not sync",
		    name, vcpu);
	step.by_guest = step.has_tsc = true;
	step.count = 1;
	step.tsc = step.value[0] = uc.args[1];
	last_run[vcpu] = step;
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
