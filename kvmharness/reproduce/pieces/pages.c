/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The pages in which KVM tells a guest the time: for every style.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// last_run
static struct step last_run[MAX_VCPUS];

//// read_time
/*
 * A struct pvclock_vcpu_time_info: version, TSC (cycles), time (ns), multiplier, shift, flags. The guest computes the
 * time from it and its TSC; that of its last run is kept with the step.
 */
static struct step read_time(const char *name, int vcpu, __u64 address)
{
	const __u8 *page = guest_memory(address);
	struct step step = begin(name);

	memcpy(&step.value[0], page, 4);
	memcpy(&step.value[1], page + 8, 8);
	memcpy(&step.value[2], page + 16, 8);
	memcpy(&step.value[3], page + 24, 4);
	step.value[4] = page[28];
	step.value[5] = page[29];
	step.count = 6;
	end(&step, 0);
	if (last_run[vcpu].has_tsc && !last_run[vcpu].error && last_run[vcpu].ns_before >= brackets[0].ns_before) {
		step.tsc = last_run[vcpu].tsc;
		step.guest.ns_before = last_run[vcpu].ns_before;
		step.guest.ns_after = last_run[vcpu].ns_after;
	}
	return step;
}

//// read_page
/* The kvmclock page. */
static struct step read_page(const char *name, int vcpu)
{
	return read_time(name, vcpu, page_address(vcpu));
}

//// kvmclock_ctrl
/* The guest is to learn that it was stopped. */
static struct step kvmclock_ctrl(const char *name, int vcpu)
{
	struct step step = begin(name);

	end(&step, vcpu_call(vcpu, KVM_KVMCLOCK_CTRL, NULL));
	return step;
}
