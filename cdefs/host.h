/* SPDX-License-Identifier: GPL-2.0-or-later */
/* This host: its clocks, an ioctl between two readings of them, memory mappings. */

/*
 * Host clocks just before and just after an operation: whatever the kernel read in between lies
 * between them. tsc_* in cycles, ns_* in ns of CLOCK_MONOTONIC_RAW (KVM's own reference:
 * get_kvmclock_base_ns() is that clock plus the time suspended).
 */
struct bracket {
	uint64_t tsc_before;
	uint64_t ns_before;
	uint64_t ns_after;
	uint64_t tsc_after;
};

/* Both clocks, read as a bracket around nothing. */
void read_host_clock(struct bracket *bracket);

/* ioctl(2): its result, or -errno. */
int ioctl_value(int fd, unsigned long request, unsigned long value);
int ioctl_pointer(int fd, unsigned long request, void *pointer);

/* The same, between two readings of the host's clocks. */
int bracketed_ioctl_value(struct bracket *bracket, int fd, unsigned long request, unsigned long value);
int bracketed_ioctl_pointer(struct bracket *bracket, int fd, unsigned long request, void *pointer);

/* Where threads wait for each other: how many are expected, and how many have come. */
struct meeting {
	int expected;
	int arrived;
};

/* The same once all have come who are expected, or 100 ms later. */
int ioctl_pointer_together(struct meeting *meeting, struct bracket *bracket, int fd, unsigned long request,
			   void *pointer);

/*
 * KVM_RUN until the guest exits (0), CLOCK_MONOTONIC passes deadline_ns (1: the guest was made to
 * leave), or -errno; -EINTR means that some other signal arrived and the caller may go on. A bracket
 * that is not NULL is filled in; with resumed set it keeps its beginning.
 */
int run_vcpu(int fd, struct kvm_run *run, uint64_t deadline_ns, int resumed, struct bracket *bracket);

/* Keeps the CPU busy until *stop is not 0, or CLOCK_MONOTONIC passes deadline_ns. */
void occupy_cpu(int *stop, uint64_t deadline_ns);

/* mmap(2) read-write and shared: of a file descriptor, or anonymous for fd -1. NULL on failure, errno set. */
void *map_memory(int fd, size_t size);
int munmap(void *address, size_t size);
