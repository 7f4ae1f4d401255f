/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VMM of four threads with a vCPU each, that does what VMMs do to time, in an order of its own, and logs every
 * ioctl of these when it has ended: "thread op value", appended to a file by one write(2).
 *
 *     four_threads LOG COUNT SEED     each thread makes COUNT ioctls
 *     four_threads compute TURNS      one guest counts down from TURNS, and nothing else happens; prints how
 *                                     long that takes, in cycles
 *     four_threads ioctls COUNT       one thread makes COUNT KVM_RUNs, each with a KVM_GET_MSRS; prints how long
 *                                     both take, and how wide a bracket around the second is, in cycles (means)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#define THREADS 4

static int kvm, vm, log_fd, page_size;
static long count;
static unsigned long seed;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void note(long thread, const char *op, unsigned long long value)
{
	char text[80];
	int length = snprintf(text, sizeof(text), "%ld %s %llu\n", thread, op, value);

	if (write(log_fd, text, (size_t)length) != length)
		fail("log");
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

static struct one_msr msr(uint32_t index, uint64_t value)
{
	struct one_msr msr = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	return msr;
}

static struct kvm_run *open_vcpu(long number, int *vcpu)
{
	struct kvm_run *run;

	*vcpu = ioctl(vm, KVM_CREATE_VCPU, number);
	if (*vcpu < 0)
		fail("KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)page_size, PROT_READ | PROT_WRITE, MAP_SHARED, *vcpu, 0);
	if (run == MAP_FAILED)
		fail("mmap");
	return run;
}

static void *live(void *argument)
{
	long number = (long)argument;
	unsigned long random = seed * 2654435761u + (unsigned long)number * 40503u + 1;
	struct kvm_clock_data clock = { 0 };
	struct kvm_mp_state state = { 0 };
	struct one_msr one;
	struct kvm_run *run;
	int vcpu, result;

	run = open_vcpu(number, &vcpu);
	note(number, "create_vcpu", (unsigned long long)number);
	run->immediate_exit = 1;
	for (long i = 0; i < count; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		switch (random >> 33 & 7) {
		case 0:
			one = msr(0x10, random >> 20);
			if (ioctl(vcpu, KVM_SET_MSRS, &one) != 1)
				fail("KVM_SET_MSRS");
			note(number, "set_msrs", one.entry.data);
			break;
		case 1:
			one = msr(0x10, 0);
			if (ioctl(vcpu, KVM_GET_MSRS, &one) != 1)
				fail("KVM_GET_MSRS");
			note(number, "get_msrs", one.entry.data);
			break;
		case 2:
			result = ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
			note(number, "get_tsc_khz", (unsigned long long)result);
			break;
		case 3:
			if (ioctl(vm, KVM_GET_CLOCK, &clock))
				fail("KVM_GET_CLOCK");
			note(number, "get_clock", clock.clock);
			break;
		case 4:
			clock.clock = random >> 16;
			clock.flags = 0;
			if (ioctl(vm, KVM_SET_CLOCK, &clock))
				fail("KVM_SET_CLOCK");
			note(number, "set_clock", clock.clock);
			break;
		case 5:
			result = ioctl(vcpu, KVM_KVMCLOCK_CTRL, 0);
			note(number, "kvmclock_ctrl", result ? (unsigned long long)errno : 0);
			break;
		case 6:
			state.mp_state = 0;
			if (ioctl(vcpu, KVM_SET_MP_STATE, &state))
				fail("KVM_SET_MP_STATE");
			note(number, "set_mp_state", 0);
			break;
		default: /* comes back at once */
			if (!ioctl(vcpu, KVM_RUN, 0) || errno != EINTR)
				fail("KVM_RUN");
			note(number, "run", 1);
		}
	}
	return NULL;
}

static void open_kvm(void)
{
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		fail("/dev/kvm");
	page_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		fail("KVM_CREATE_VM");
	if (ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000))
		fail("KVM_SET_TSS_ADDR");
	if (ioctl(vm, KVM_CREATE_IRQCHIP, 0))
		fail("KVM_CREATE_IRQCHIP");
}

/* mov ecx, TURNS; dec ecx; jnz; out 0x10, al; hlt: in real mode at 0x1000 */
static void compute(unsigned long turns)
{
	unsigned char code[] = { 0x66, 0xb9, 0, 0, 0, 0, 0x66, 0x49, 0x75, 0xfc, 0xe6, 0x10, 0xf4 };
	struct kvm_userspace_memory_region region = { .memory_size = 0x1000, .guest_phys_addr = 0x1000 };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	uint32_t few = (uint32_t)turns;
	struct kvm_run *run;
	unsigned long long before;
	void *memory;
	int vcpu;

	run = open_vcpu(0, &vcpu);
	memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	memcpy(code + 2, &few, sizeof(few));
	memcpy(memory, code, sizeof(code));
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		fail("memory");
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		fail("registers");
	before = __rdtsc();
	while (!ioctl(vcpu, KVM_RUN, 0) && run->exit_reason != KVM_EXIT_IO)
		;
	if (run->exit_reason != KVM_EXIT_IO)
		fail("KVM_RUN");
	printf("%llu\n", __rdtsc() - before);
}

static void many_ioctls(long often)
{
	unsigned long long width = 0, before, begun;
	struct kvm_run *run;
	struct one_msr one;
	int vcpu;

	run = open_vcpu(0, &vcpu);
	run->immediate_exit = 1;
	begun = __rdtsc();
	for (long i = 0; i < often; i++) {
		if (!ioctl(vcpu, KVM_RUN, 0) || errno != EINTR)
			fail("KVM_RUN");
		one = msr(0x10, 0);
		before = __rdtsc();
		if (ioctl(vcpu, KVM_GET_MSRS, &one) != 1)
			fail("KVM_GET_MSRS");
		width += __rdtsc() - before;
	}
	printf("%llu %llu\n", (__rdtsc() - begun) / (unsigned long long)often, width / (unsigned long long)often);
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	if (argc < 3)
		return 2;
	open_kvm();
	if (!strcmp(argv[1], "compute")) {
		compute(strtoul(argv[2], NULL, 10));
		return 0;
	}
	if (!strcmp(argv[1], "ioctls")) {
		many_ioctls(atol(argv[2]));
		return 0;
	}
	log_fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0)
		fail(argv[1]);
	count = atol(argv[2]);
	seed = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, live, (void *)i))
			fail("pthread_create");
	for (long i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
