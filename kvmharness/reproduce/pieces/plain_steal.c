/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain C: a guest that reads its steal time.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// steal_time
/* Where the steal time of a vCPU is in the guest's memory. */
static __u64 steal_time(int vcpu)
{
	return 0x7e000 + vcpu * STEAL_SIZE;
}

//// STOLEN STOLEN_READ
#define STOLEN 0xf0			/* in the page of results: the beginning of the steal time, as the guest read it */
#define STOLEN_READ 0x108		/* and whether it did */

//// real_mode_with_steal_time
static void real_mode_with_steal_time(const struct guest *guest, int vcpu, struct kvm_sregs *sregs,
				      struct kvm_regs *regs)
{
	real_mode_with_vectors(guest, vcpu, sregs, regs);
	set_segment(&sregs->es, steal_time(vcpu));
}

//// read_steal_time
static struct step read_steal_time(const char *name, int vcpu)
{
	__u8 *results = memory + RESULTS(vcpu), page[STEAL_SIZE];
	__u64 before, after;
	struct step step;

	results[STOLEN_READ] = 0;
	before = run_delay();
	step = run_guest(name, vcpu);
	after = run_delay();
	memcpy(page, memory + steal_time(vcpu), STEAL_SIZE);
	memcpy(page, results + STOLEN, STOLEN_READ - STOLEN);
	take_steal_time(&step, page);
	step.value[WAITED_BEFORE] = before;
	step.value[WAITED_AFTER] = after;
	step.count = results[STOLEN_READ] && step.has_tsc ? STEAL_TSC + 1 : 0;
	step.by_guest = false;		/* not all that it read is its TSC */
	return step;
}
