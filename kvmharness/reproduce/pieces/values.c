/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What values to write stand for, where the test runs, what it needs: for every style.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// value_of
/* What a step read, for a later one to write. */
static __u64 value_of(const struct step *step, int place)
{
	static char why[128];

	if (step->error || place >= step->count) {
		snprintf(why, sizeof(why), "step %s read nothing: %s", step->name, strerror(step->error));
		skip_all(why);
	}
	return step->value[place];
}

//// cycles
/* As many cycles as the TSC of a vCPU counts in so many ns. */
static __u64 cycles(int vcpu, __s64 ns)
{
	__int128 product = (__int128)ns * vcpus[vcpu].khz;

	return product / 1000000 - (product % 1000000 < 0);
}

//// off_by_ppm
/* The rate that a vCPU had first, and so many millionths more. */
static __u32 off_by_ppm(int vcpu, __s64 ppm)
{
	return vcpus[vcpu].first_khz * (1000000 + ppm) / 1000000;
}

//// stay_here
/* The TSCs of two CPUs may be a few cycles apart. */
static void stay_here(void)
{
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof(here), &here);
}

//// stay_here_of
static int cpus[16], cpu_count;

/* Stay on this CPU until move_thread(). It is CPU 0 here; the others that may be used follow in their order. */
static void stay_here_of(void)
{
	cpu_set_t allowed, here;

	sched_getaffinity(0, sizeof(allowed), &allowed);
	cpus[cpu_count++] = sched_getcpu();
	for (int cpu = 0; cpu < CPU_SETSIZE && cpu_count < 16; cpu++)
		if (CPU_ISSET(cpu, &allowed) && cpu != cpus[0])
			cpus[cpu_count++] = cpu;
	CPU_ZERO(&here);
	CPU_SET(cpus[0], &here);
	sched_setaffinity(0, sizeof(here), &here);
}

//// move_thread
static struct step move_thread(const char *name, int to)
{
	struct step step = begin(name);
	cpu_set_t there;

	if (to >= cpu_count) {
		errno = EINVAL;
		end(&step, -1);
		return step;
	}
	CPU_ZERO(&there);
	CPU_SET(cpus[to], &there);
	end(&step, sched_setaffinity(0, sizeof(there), &there));
	if (step.tsc_after < step.tsc_before)	/* another CPU's TSC may be behind */
		step.tsc_after = step.tsc_before;
	return step;
}

//// require
/* What this test needs of a KVM is found by effect. */
static void require(enum result result, const char *missing)
{
	if (result != KEPT)
		skip_all(result == BROKEN ? missing : reason);
}

//// require_missing
static void require_missing(enum result result, const char *there)
{
	if (result != BROKEN)
		skip_all(result == KEPT ? there : reason);
}

//// has_two_cpus
static enum result has_two_cpus(void)
{
	return cpu_count > 1 ? KEPT : BROKEN;
}

//// is_unknown
/* Whether the kernel does not know what this step asked for. */
static bool is_unknown(const struct step *step)
{
	return step->error == ENXIO || step->error == ENOTTY || step->error == EINVAL;
}

//// took
static __s64 took(const struct step *step)
{
	return step->ns_after - step->ns_before;
}
