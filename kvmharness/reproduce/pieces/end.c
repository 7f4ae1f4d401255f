/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is needed first, and how a test ends.
 *
 * Pieces of tests in plain C: each begins with four slashes and the names that it defines. A test gets those whose
 * names it uses, in this order (../pieces.py).
 */

//// open_kvm
static void on_alarm(int signal)
{
	static const char said[] = "Bail out! a guest did not exit within a minute\n";

	(void)signal;
	_exit(write(1, said, sizeof(said) - 1) < 0 ? 5 : 4);
}

static void open_kvm(void)
{
	setlinebuf(stdout);
	signal(SIGALRM, on_alarm);
	alarm(60);
	printf("TAP version 13\n");
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		skip_all("/dev/kvm does not open");
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

//// finish
static int finish(void)
{
	printf("# %d failed, %d skipped, of %d\n", failed, skipped, tests);
	return failed ? 1 : skipped ? 4 : 0;
}
