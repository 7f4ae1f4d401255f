/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <x86intrin.h>

/* The fences keep the TSC from being read early or late (Intel SDM vol. 3, 18.17 and RDTSC in vol. 2). */
static inline uint64_t ordered_tsc(void)
{
	uint64_t tsc;

	_mm_lfence();
	tsc = __rdtsc();
	_mm_lfence();
	return tsc;
}

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static inline void open_bracket(struct bracket *bracket)
{
	bracket->tsc_before = ordered_tsc();
	bracket->ns_before = clock_ns(CLOCK_MONOTONIC_RAW);
}

static inline void close_bracket(struct bracket *bracket)
{
	bracket->ns_after = clock_ns(CLOCK_MONOTONIC_RAW);
	bracket->tsc_after = ordered_tsc();
}

void read_host_clock(struct bracket *bracket)
{
	open_bracket(bracket);
	close_bracket(bracket);
}

int ioctl_value(int fd, unsigned long request, unsigned long value)
{
	int result = ioctl(fd, request, value);

	return result < 0 ? -errno : result;
}

int ioctl_pointer(int fd, unsigned long request, void *pointer)
{
	return ioctl_value(fd, request, (unsigned long)pointer);
}

int bracketed_ioctl_value(struct bracket *bracket, int fd, unsigned long request, unsigned long value)
{
	int result;

	open_bracket(bracket);
	result = ioctl(fd, request, value);
	close_bracket(bracket);
	return result < 0 ? -errno : result;
}

int bracketed_ioctl_pointer(struct bracket *bracket, int fd, unsigned long request, void *pointer)
{
	return bracketed_ioctl_value(bracket, fd, request, (unsigned long)pointer);
}

int ioctl_pointer_together(struct meeting *meeting, struct bracket *bracket, int fd, unsigned long request,
			   void *pointer)
{
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + 100000000;

	__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&meeting->arrived, __ATOMIC_SEQ_CST) < meeting->expected &&
	       clock_ns(CLOCK_MONOTONIC) < deadline)
		sched_yield();
	return bracketed_ioctl_pointer(bracket, fd, request, pointer);
}

void occupy_cpu(int *stop, uint64_t deadline_ns)
{
	while (!__atomic_load_n(stop, __ATOMIC_SEQ_CST) && clock_ns(CLOCK_MONOTONIC) < deadline_ns)
		;
}

void *map_memory(int fd, size_t size)
{
	void *address = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);

	return address == MAP_FAILED ? NULL : address;
}
