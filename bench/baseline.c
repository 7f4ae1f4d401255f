/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the bindings are measured against: the same work, in C alone. */
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* ns a call of `count` calls of an ioctl. */
double ioctl_loop(int fd, unsigned long request, unsigned long argument, int count)
{
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	int i;

	for (i = 0; i < count; i++)
		if (ioctl(fd, request, argument) < 0)
			return -1;
	return (double)(clock_ns(CLOCK_MONOTONIC) - begin) / count;
}

/* The width in cycles of each of `count` brackets around an ioctl: TSC, clock, ioctl, clock, TSC. */
int bracket_loop(int fd, unsigned long request, void *argument, int count, uint64_t *widths)
{
	static volatile uint64_t keep;
	int i;

	for (i = 0; i < count; i++) {
		uint64_t before, after;

		_mm_lfence();
		before = __rdtsc();
		_mm_lfence();
		keep = clock_ns(CLOCK_MONOTONIC_RAW);
		if (ioctl(fd, request, argument) < 0)
			return -1;
		keep = clock_ns(CLOCK_MONOTONIC_RAW);
		_mm_lfence();
		after = __rdtsc();
		_mm_lfence();
		widths[i] = after - before;
	}
	return 0;
}
