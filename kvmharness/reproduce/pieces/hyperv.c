/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain C: a Hyper-V's reference time, in units of 100 ns, and checks of it.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// HV_X64_MSR_GUEST_OS_ID
#define HV_X64_MSR_GUEST_OS_ID 0x40000000

//// HV_X64_MSR_HYPERCALL
#define HV_X64_MSR_HYPERCALL 0x40000001

//// HV_X64_MSR_TIME_REF_COUNT
#define HV_X64_MSR_TIME_REF_COUNT 0x40000020

//// HV_X64_MSR_REFERENCE_TSC
#define HV_X64_MSR_REFERENCE_TSC 0x40000021

//// HV_X64_MSR_TSC_FREQUENCY
#define HV_X64_MSR_TSC_FREQUENCY 0x40000022

//// HV_X64_MSR_REENLIGHTENMENT_CONTROL
#define HV_X64_MSR_REENLIGHTENMENT_CONTROL 0x40000106

//// HV_X64_MSR_TSC_EMULATION_CONTROL
#define HV_X64_MSR_TSC_EMULATION_CONTROL 0x40000107

//// TSC_PAGE
#define TSC_PAGE CODE(MAX_VCPUS)	/* where the TSC page is in the guest's memory, one for all vCPUs */

//// REFERENCE REFERENCE_READ
#define REFERENCE 0x40			/* in the page of results: what the guest read of its reference time */
#define REFERENCE_READ 0x70		/* and whether it did */

//// real_mode_with_tsc_page
static void real_mode_with_tsc_page(const struct guest *guest, int vcpu, struct kvm_sregs *sregs,
				    struct kvm_regs *regs)
{
	real_mode_with_vectors(guest, vcpu, sregs, regs);
	set_segment(&sregs->es, TSC_PAGE);
}

//// set_hv_cpuid
/* The leaves by which a hypervisor says what it is are a Hyper-V's from now on. */
static struct step set_hv_cpuid(const char *name, int vcpu)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[256]; } cpuid, hyperv;
	struct step step;
	__u32 kept = 0;

	cpuid.head.nent = hyperv.head.nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid))
		skip_all("KVM does not say what CPUID it offers");
	step = begin(name);
	if (ioctl(vcpus[vcpu].fd, KVM_GET_SUPPORTED_HV_CPUID, &hyperv)) {
		end(&step, -1);
		return step;
	}
	for (__u32 i = 0; i < cpuid.head.nent; i++)
		if (cpuid.entries[i].function >> 8 != 0x400000)
			cpuid.entries[kept++] = cpuid.entries[i];
	for (__u32 i = 0; i < hyperv.head.nent && kept < 256; i++)
		cpuid.entries[kept++] = hyperv.entries[i];
	cpuid.head.nent = kept;
	end(&step, ioctl(vcpus[vcpu].fd, KVM_SET_CPUID2, &cpuid));
	return step;
}

//// read_tsc_page
/* Sequence, scale, offset. */
static struct step read_tsc_page(const char *name)
{
	struct step step = begin(name);

	memcpy(&step.value[0], memory + TSC_PAGE, 4);
	memcpy(&step.value[1], memory + TSC_PAGE + 8, 2 * 8);
	step.count = 3;
	end(&step, 0);
	return step;
}

//// read_reference_time
/* The guest reads its TSC, the counter, and its TSC again; then sequence, scale and offset of the page. */
static struct step read_reference_time(const char *name, int vcpu)
{
	__u8 *results = memory + RESULTS(vcpu);
	struct step step;

	results[REFERENCE_READ] = 0;
	step = run_guest(name, vcpu);
	step.count = step.has_tsc && results[REFERENCE_READ] ? 6 : 0;
	step.has_tsc = step.count;
	step.by_guest = false;		/* not all that it read is its TSC */
	memcpy(step.value, results + REFERENCE, 6 * 8);
	step.tsc = step.value[2];
	last_run[vcpu] = step;
	return step;
}

//// reference_time
/* The time (ns) that a guest computes from a TSC page and a TSC. */
static __u64 reference_time(const __u64 *page, __u64 tsc)
{
	return ((__u64)((unsigned __int128)tsc * page[1] >> 64) + page[2]) * 100;
}

//// reference_claim is_reference
/*
 * The reference time that the step `seen` reports is that of the page that `due` read, at one TSC. A page is asked at
 * the TSC of the step `at`. -1 stands for what a step has not.
 */
struct reference_claim {
	const struct step *seen, *due, *at;
	int counter, page, due_page;	/* among the values: a counter between two TSCs, a TSC page, that of `due` */
	bool by_page;			/* the guest is to go by the page, which has the scale of `due` to the bit */
};

/* The time (ns) at a TSC by the page that is due, and for how long that is counted. */
static __u64 due_time(struct reference_claim claim, __u64 tsc, __s64 *counted)
{
	__s64 since;

	*counted = claim.seen->ns_after - claim.due->ns_before;
	*counted = *counted < 0 ? -*counted : *counted;
	if (claim.due_page >= 0)
		return reference_time(claim.due->value + claim.due_page, tsc);
	since = page_time(claim.due, tsc) - claim.due->value[2];
	since = since < 0 ? -since : since;
	*counted = since > *counted ? since : *counted;
	return page_time(claim.due, tsc);
}

/* The scale that goes with a kvmclock page. */
static __u64 scale_of(const struct step *page)
{
	int places = 32 + (signed char)page->value[4];
	unsigned __int128 scale = page->value[3];

	return (places < 0 ? scale >> -places : scale << places) / 100;
}

/* By how many ns a time is beyond those that are allowed: a unit ahead, two behind, and what rates may be off. */
static __s64 reference_gap(struct reference_claim claim, __u64 time, __u64 first_tsc, __u64 last_tsc)
{
	__s64 counted, later;
	__s64 high = time - due_time(claim, first_tsc, &counted) + 200;
	__s64 low = time - due_time(claim, last_tsc, &later) - 100;
	__s64 slack = 2 + counted / (1 << 24);

	if (low > slack)
		return low - slack;
	return high < -slack ? high + slack : 0;
}

static enum result is_reference(struct reference_claim claim)
{
	const __u64 *counter = claim.seen->value + claim.counter, *page = claim.seen->value + claim.page;
	const char *name = claim.seen->name, *due = claim.due->name;
	__s64 gap = 0;

	if (claim.due_page < 0 && !claim.due->value[0])
		return broken("step %s read no page: KVM never wrote it", due);
	if (claim.due_page < 0 ? !is_stable(claim.due) : !claim.due->value[claim.due_page])
		return undecided("step %s read no page of a masterclock", due);
	if (claim.seen->error || !claim.seen->count)
		return undecided("step %s read no reference time", name);
	if (claim.counter >= 0)
		gap = reference_gap(claim, counter[1] * 100, counter[0], counter[2]);
	if (gap)
		return broken("step %s read a counter %lld ns too far %s step %s", name, gap < 0 ? -gap : gap,
			      gap > 0 ? "ahead of" : "behind", due);
	if (claim.page < 0)
		return KEPT;
	if (!page[0])
		return claim.by_page ? broken("step %s: the guest is not to go by the page", name) : KEPT;
	if (!claim.at || claim.at->error || !claim.at->has_tsc)
		return KEPT;
	gap = reference_gap(claim, reference_time(page, claim.at->tsc), claim.at->tsc, claim.at->tsc);
	if (gap)
		return broken("step %s read a page whose time is %lld ns too far %s step %s", name, gap < 0 ? -gap : gap,
			      gap > 0 ? "ahead of" : "behind", due);
	if (claim.by_page && page[1] != (claim.due_page < 0 ? scale_of(claim.due) : claim.due->value[claim.due_page + 1]))
		return broken("step %s read a page of scale %llu, not that of step %s", name, page[1], due);
	return KEPT;
}

//// is_renewed
/* A step reads another TSC page than `due`, under another sequence; or, not renewed, the same. */
static enum result is_renewed(const struct step *seen, int page, const struct step *due, int due_page, bool renewed)
{
	const __u64 *now = seen->value + page, *before = due->value + due_page;
	bool same = now[1] == before[1] && now[2] == before[2];

	if (seen->error || !seen->count || due->error || !due->count)
		return undecided("step %s or %s read no TSC page", seen->name, due->name);
	if (renewed && same)
		return broken("step %s read the TSC page of step %s", seen->name, due->name);
	if (renewed && now[0] == before[0])
		return broken("step %s read a new TSC page under the sequence of the old one, %llu", seen->name, now[0]);
	if (!renewed && !(same && now[0] == before[0]))
		return broken("step %s read a TSC page other than step %s", seen->name, due->name);
	return KEPT;
}

//// is_empty
static enum result is_empty(const struct step *seen, int page)
{
	const __u64 *value = seen->value + page;

	if (seen->error || !seen->count)
		return undecided("step %s read no TSC page", seen->name);
	return value[0] || value[1] || value[2] ? broken("step %s read a page that was written", seen->name) : KEPT;
}
