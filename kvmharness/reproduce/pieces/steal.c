/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How long a thread waited for a CPU, what its guest reads of that, and checks: for every style.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// MSR_KVM_STEAL_TIME
#define MSR_KVM_STEAL_TIME 0x4b564d03

//// run_delay
/* How long this thread has waited for a CPU since it began, in ns. */
static __u64 run_delay(void)
{
	FILE *file = fopen("/proc/thread-self/schedstat", "r");
	unsigned long long waited;

	if (!file || fscanf(file, "%*u %llu", &waited) != 1)
		skip_all("the kernel does not say how long a thread waited for a CPU");
	fclose(file);
	return waited;
}

//// waited_on_purpose
/* What this thread has waited in wait_for_cpu(), in ns. */
static __u64 waited_on_purpose;

//// wait_for_cpu
/*
 * Another process competes for this CPU until this thread has waited `ns` for it, or for a second more. Reads this
 * thread's run_delay() before and after.
 */
static struct step wait_for_cpu(const char *name, __s64 ns)
{
	struct step step = begin(name);
	__s64 deadline = raw_ns() + ns + SECOND;
	__u64 before = run_delay();
	pid_t other = fork();

	if (!other) {			/* on the one CPU that this thread may use */
		while (raw_ns() < deadline)
			;
		_exit(0);
	}
	while (other > 0 && (__s64)(run_delay() - before) < ns && raw_ns() < deadline)
		sched_yield();
	if (other > 0) {
		kill(other, SIGKILL);
		waitpid(other, NULL, 0);
	}
	end(&step, other);
	step.count = step.error ? 0 : 2;
	step.value[0] = before;
	step.value[1] = run_delay();
	waited_on_purpose += step.value[1] - before;
	return step;
}

//// STEAL STEAL_VERSION STEAL_FLAGS STEAL_PREEMPTED STEAL_PADDING WAITED_BEFORE WAITED_AFTER STEAL_TSC
/*
 * What a step reads of the steal time: the page, with all that is in its padding; what the thread had waited for a CPU
 * before the guest ran and after; the guest's TSC.
 */
enum {
	STEAL,				/* in ns */
	STEAL_VERSION, STEAL_FLAGS, STEAL_PREEMPTED, STEAL_PADDING,
	WAITED_BEFORE, WAITED_AFTER,	/* in ns */
	STEAL_TSC,
};

//// STEAL_SIZE take_steal_time
#define STEAL_SIZE 64			/* of struct kvm_steal_time, in bytes */

static void take_steal_time(struct step *step, const __u8 *page)
{
	memset(step->value, 0, sizeof(step->value));
	memcpy(&step->value[STEAL], page, 8);
	memcpy(&step->value[STEAL_VERSION], page + 8, 4);
	memcpy(&step->value[STEAL_FLAGS], page + 12, 4);
	step->value[STEAL_PREEMPTED] = page[16];
	for (int i = 17; i < STEAL_SIZE; i++)
		step->value[STEAL_PADDING] |= page[i];
	step->value[STEAL_TSC] = step->tsc;
}

//// reads_nothing
static bool reads_nothing(const struct step *step)
{
	if (step->error || !step->count)
		undecided("step %s read nothing: %s", step->name, strerror(step->error));
	return step->error || !step->count;
}

//// steal_claim steal_grows
/* From the step `due` to those `seen` the steal time has grown by what the thread waited for a CPU: at `by`, too. */
struct steal_claim {
	const struct step *seen[16], *due, *by[8];
};

/* Whether a page is as a running guest has to find it. */
static bool is_whole(const struct step *page)
{
	const __u64 *value = page->value;

	if (!value[STEAL_VERSION] || value[STEAL_VERSION] % 2)
		broken("step %s: version %llu", page->name, value[STEAL_VERSION]);
	else if (value[STEAL_PREEMPTED])
		broken("step %s: its vCPU is preempted, while it runs", page->name);
	else if (value[STEAL_FLAGS] || value[STEAL_PADDING])
		broken("step %s: flags %#llx, padding %#llx, where there is nothing", page->name,
		       value[STEAL_FLAGS], value[STEAL_PADDING]);
	else
		return true;
	return false;
}

static enum result steal_grows(struct steal_claim claim)
{
	const __u64 *first = claim.due->value;

	if (reads_nothing(claim.due))
		return UNDECIDED;
	if (!is_whole(claim.due))
		return BROKEN;
	for (const struct step **by = claim.by; *by; by++)
		if (reads_nothing(*by))
			return UNDECIDED;
	for (const struct step **seen = claim.seen; *seen; seen++) {
		if (reads_nothing(*seen))
			return UNDECIDED;
		if (!is_whole(*seen))
			return BROKEN;
	}
	for (const struct step **by = claim.by; *by; by++)
		if ((*by)->value[0] == (*by)->value[1])
			return undecided("step %s: nothing competed for the CPU", (*by)->name);
	for (const struct step **seen = claim.seen; *seen; seen++) {
		const __u64 *last = (*seen)->value;
		__s64 grown = last[STEAL] - first[STEAL];
		__s64 least = last[WAITED_BEFORE] - first[WAITED_AFTER];
		__s64 most = last[WAITED_AFTER] - first[WAITED_BEFORE];

		if (grown < least || grown > most)
			return broken("from step %s to %s the steal time grew by %lld ns, while the thread waited %lld to %lld ns",
				      claim.due->name, (*seen)->name, grown, least, most);
	}
	return KEPT;
}

//// no_steal
/* The page was not written since the step `due`, or never. */
static enum result no_steal(const struct step *seen, const struct step *due)
{
	static const int of_page[] = { STEAL, STEAL_VERSION, STEAL_FLAGS, STEAL_PADDING };

	if (reads_nothing(seen) || (due && reads_nothing(due)))
		return UNDECIDED;
	for (int i = 0; i < 4; i++)
		if (seen->value[of_page[i]] != (due ? due->value[of_page[i]] : 0))
			return broken("step %s read a page of version %llu, %llu ns", seen->name,
				      seen->value[STEAL_VERSION], seen->value[STEAL]);
	return KEPT;
}
