/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What KVM tells a Xen's vCPU of its runstates, and checks of that: for every style.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// RUNNING RUNNABLE BLOCKED OFFLINE state_names
enum { RUNNING, RUNNABLE, BLOCKED, OFFLINE };

static const char *const state_names[] = { "running", "runnable", "blocked", "offline" };

//// RUNSTATE ENTERED TIMES RUN_DELAY ON_PURPOSE SINCE_FIRST
/*
 * What a step reads of a runstate: the state, the VM's clock when the vCPU entered it, how long it was in each of the
 * four until then. What the thread had waited for a CPU in all, how much of that in wait_for_cpu(), and what elsewhere
 * since a step first read it. All but the first in ns.
 */
enum { RUNSTATE, ENTERED, TIMES, RUN_DELAY = TIMES + 4, ON_PURPOSE, SINCE_FIRST };

//// xen_runstate
/* Where the runstate of a vCPU is, without alignment: its guest has 32 bits. */
static __u64 xen_runstate(int vcpu)
{
	return XEN + 0x900 + vcpu * 0x40;
}

//// set_xen_runstate
/* KVM tells the vCPU its runstate from now on. */
static struct step set_xen_runstate(const char *name, int vcpu)
{
	struct step step = begin(name);

	end(&step, set_xen_address(vcpu, XEN_ATTR_RUNSTATE, xen_runstate(vcpu)));
	return step;
}

//// enter_xen_runstate
/* The vCPU is in this state until it next runs. Reads what the thread had waited before and after. */
static struct step enter_xen_runstate(const char *name, int vcpu, int state)
{
	__u64 before = run_delay();
	struct step step = begin(name);

	end(&step, set_xen_address(vcpu, XEN_ATTR_STATE, state));
	step.count = 2;
	step.value[0] = before;
	step.value[1] = run_delay();
	return step;
}

//// set_xen_runstate_times
/* The state and the times (ns) that were saved of a vCPU. */
static struct step set_xen_runstate_times(const char *name, int vcpu, int state, __u64 running, __u64 runnable,
					  __u64 blocked, __u64 offline)
{
	struct xen_attr attr = {
		.type = XEN_ATTR_TIMES,
		.value = { state, running + runnable + blocked + offline, running, runnable, blocked, offline },
	};
	struct step step = begin(name);

	end(&step, vcpu_call(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr));
	step.count = 4;
	memcpy(step.value, attr.value + 2, 4 * sizeof(step.value[0]));
	return step;
}

//// waited_at_first
/* What this thread had waited elsewhere than in wait_for_cpu() when a runstate was first read, in ns; 0: none was. */
static __u64 waited_at_first;

//// read_xen_runstate
static struct step read_xen_runstate(const char *name, int vcpu)
{
	const __u8 *page = guest_memory(xen_runstate(vcpu));
	struct step step = begin(name);

	memcpy(&step.value[RUNSTATE], page, 4);
	memcpy(&step.value[ENTERED], page + 4, 5 * 8);
	end(&step, 0);
	step.value[RUN_DELAY] = run_delay();
	step.value[ON_PURPOSE] = waited_on_purpose;
	step.value[SINCE_FIRST] = step.value[RUN_DELAY] - step.value[ON_PURPOSE] - waited_at_first;
	if (!waited_at_first)
		waited_at_first = step.value[SINCE_FIRST];
	step.count = RUN_DELAY + 1;
	return step;
}

//// waited_elsewhere
/*
 * Whether the thread waited for a CPU between two steps, other than in wait_for_cpu(). If it had the vCPU loaded then,
 * KVM counts that as runnable until it next enters its guest, and as running from then on.
 */
static bool waited_elsewhere(const struct step *first, const struct step *last)
{
	return last->value[RUN_DELAY] - first->value[RUN_DELAY] != last->value[ON_PURPOSE] - first->value[ON_PURPOSE];
}

//// runstate_claim runstate_is
/* The runstate is `state`, and its times add up to when that was entered. */
struct runstate_claim {
	const struct step *seen;
	int state;
	const struct step *after, *before;	/* the vCPU entered it between these two KVM_GET_CLOCK, */
	bool first;			/* or it was offline until then, unless it had entered another state */
	const struct step *earlier[16];	/* as one of these shows */
};

/* Whether the state was entered before a KVM_GET_CLOCK (`sign` 1) that it has to follow, or after one (-1). */
static enum result entered_beyond(struct runstate_claim claim, const struct step *clock, int sign)
{
	__u64 entered = claim.seen->value[claim.first ? TIMES + OFFLINE : ENTERED];
	__s64 gap = clock ? (__s64)(clock->value[0] - entered) * sign : 0;

	if (gap <= 0)
		return KEPT;
	for (const struct step **earlier = claim.earlier; claim.first && *earlier; earlier++)
		if ((*earlier)->value[ENTERED])
			return undecided("step %s: the thread was preempted before the first run", claim.seen->name);
	return broken("step %s read that the state was entered %lld ns %s the clock of step %s", claim.seen->name, gap,
		      sign > 0 ? "before" : "after", clock->name);
}

static enum result runstate_is(struct runstate_claim claim)
{
	const __u64 *value = claim.seen->value, *times = value + TIMES;
	__s64 gap = times[RUNNING] + times[RUNNABLE] + times[BLOCKED] + times[OFFLINE] - value[ENTERED];
	const char *name = claim.seen->name;
	enum result result;

	if (reads_nothing(claim.seen) || (claim.after && reads_nothing(claim.after)) ||
	    (claim.before && reads_nothing(claim.before)))
		return UNDECIDED;
	if (!value[ENTERED])
		return broken("step %s read a runstate that KVM never wrote", name);
	if (gap)
		return broken("the times that step %s read are %lld ns %s than the clock when the state was entered", name,
			      gap < 0 ? -gap : gap, gap > 0 ? "more" : "less");
	if (value[RUNSTATE] == RUNNABLE && claim.state != RUNNABLE && value[SINCE_FIRST])
		return undecided("step %s: the thread may have been preempted", name);
	if (value[RUNSTATE] != (__u64)claim.state)
		return broken("step %s read that the vCPU is %s (%llu)", name,
			      value[RUNSTATE] > OFFLINE ? "in no state" : state_names[value[RUNSTATE]], value[RUNSTATE]);
	result = entered_beyond(claim, claim.after, 1);
	return result == KEPT ? entered_beyond(claim, claim.before, -1) : result;
}

//// only_grow
/* No time runs back, and only those of these states (bits by their numbers) grow. */
static enum result only_grow(unsigned int states, const struct step *first, const struct step *last)
{
	if (reads_nothing(first) || reads_nothing(last))
		return UNDECIDED;
	for (int state = RUNNING; state <= OFFLINE; state++) {
		__s64 grown = last->value[TIMES + state] - first->value[TIMES + state];
		bool went_on;

		if (!grown || (grown > 0 && states >> state & 1))
			continue;
		/* what was preempted before the first goes on being runnable */
		went_on = state == RUNNABLE && first->value[RUNSTATE] == RUNNABLE && first->value[SINCE_FIRST];
		if (grown > 0 && state <= RUNNABLE && (went_on || waited_elsewhere(first, last)))
			return undecided("step %s: the thread may have been preempted", last->name);
		return broken("from step %s to %s the time in which the vCPU was %s %s by %lld ns", first->name, last->name,
			      state_names[state], grown > 0 ? "grew" : "ran back", grown < 0 ? -grown : grown);
	}
	return KEPT;
}

//// runnable_claim was_runnable
/*
 * From the step `due` to the step `seen` the vCPU was runnable for as long as its thread waited, `by` these steps. The
 * step `first` read that before the vCPU ran for what `due` then read.
 */
struct runnable_claim {
	const struct step *seen, *due, *first, *by[8];
};

static enum result was_runnable(struct runnable_claim claim)
{
	__s64 grown = claim.seen->value[TIMES + RUNNABLE] - claim.due->value[TIMES + RUNNABLE], least = 0;
	__s64 most = claim.seen->value[RUN_DELAY] - claim.first->value[RUN_DELAY];

	if (reads_nothing(claim.seen) || reads_nothing(claim.due) || reads_nothing(claim.first))
		return UNDECIDED;
	for (const struct step **by = claim.by; *by; by++) {
		if (reads_nothing(*by))
			return UNDECIDED;
		if ((*by)->value[0] == (*by)->value[1])
			return undecided("step %s: nothing competed for the CPU", (*by)->name);
		least += (*by)->value[1] - (*by)->value[0];
	}
	if (grown >= least && grown <= most)
		return KEPT;
	if (most > least)
		return undecided("the thread also waited elsewhere");
	return broken("from step %s to %s the vCPU was runnable for %lld ns, while its thread waited %lld ns for a CPU",
		      claim.due->name, claim.seen->name, grown, least);
}
