/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain C: what is needed first, and how a test ends.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
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

//// finish
static int finish(void)
{
	printf("# %d failed, %d skipped, of %d\n", failed, skipped, tests);
	return failed ? 1 : skipped ? 4 : 0;
}
