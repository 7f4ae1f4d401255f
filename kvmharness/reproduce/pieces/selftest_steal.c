/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own selftests: a guest that reads its steal time.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// shared steal_time
/* What the guest of a vCPU, KVM and this test share. */
struct shared {
	__u8 steal[STEAL_SIZE], read[STEAL_SIZE];	/* as KVM writes it, and as the guest read it */
	__u64 tsc_before, value;
	__u32 msr;			/* that the guest is to write, or 0 */
};

static __u64 steal_time(int vcpu)
{
	return SHARED + vcpu * 0x1000;
}

static volatile struct shared *shared(int vcpu)
{
	return guest_memory(steal_time(vcpu));
}

//// reads_steal_time
static void reads_steal_time(int vcpu)
{
	volatile struct shared *own = (void *)steal_time(vcpu);
	volatile __u32 *version = (void *)(steal_time(vcpu) + 8);
	__u32 before;

	for (;;) {
		own->tsc_before = rdtsc();
		if (own->msr)
			wrmsr(own->msr, own->value);
		own->msr = 0;
		do {			/* KVM may write it meanwhile */
			before = *version;
			for (int i = 0; i < STEAL_SIZE; i++)
				own->read[i] = own->steal[i];
		} while (*version != before);
		GUEST_SYNC(rdtsc());
	}
}

//// guest_write
/* The guest executes WRMSR: what it is to write, and its TSC before and after. */
static struct step guest_write(const char *name, int vcpu, __u32 msr, __u64 data)
{
	struct step step;

	shared(vcpu)->value = data;
	shared(vcpu)->msr = msr;
	step = run_guest(name, vcpu);
	step.by_guest = false;
	step.count = 3;
	step.value[2] = step.tsc;
	step.value[1] = shared(vcpu)->tsc_before;
	step.value[0] = data;
	if (msr == MSR_IA32_TSC)
		step.tsc = data;
	return step;
}

//// read_steal_time
static struct step read_steal_time(const char *name, int vcpu)
{
	__u64 before = run_delay(), after;
	struct step step;

	step = run_guest(name, vcpu);
	after = run_delay();
	take_steal_time(&step, (const __u8 *)shared(vcpu)->read);
	step.value[WAITED_BEFORE] = before;
	step.value[WAITED_AFTER] = after;
	step.count = STEAL_TSC + 1;
	step.by_guest = false;		/* not all that it read is its TSC */
	return step;
}
