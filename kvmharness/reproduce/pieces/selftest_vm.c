/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own selftests: the VM by kvm_util.h, and its memory.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// skip_all
__attribute__((noreturn)) static void skip_all(const char *why)
{
	ksft_exit_skip("%s\n", why);
	exit(KSFT_SKIP);
}

//// report
static void report(const char *text, enum result result)
{
	if (result == UNDECIDED)
		skip_all(reason);
	TEST_ASSERT(result == KEPT, "%s: %s", text, reason);
}

//// vcpus vm MAX_VCPUS
#define MAX_VCPUS 24

static struct kvm_vm *vm;
static struct {
	struct kvm_vcpu *vcpu;
	__s64 khz, first_khz;
} vcpus[MAX_VCPUS];

//// vm_fd
static int vm_fd(void)
{
	return vm->fd;
}

//// vm_call
static int vm_call(unsigned long request, void *argument)
{
	return ioctl(vm_fd(), request, argument);
}

//// vcpu_call
static int vcpu_call(int vcpu, unsigned long request, void *argument)
{
	return ioctl(vcpus[vcpu].vcpu->fd, request, argument);
}

//// SHARED share_memory guest_memory
/* Memory that the guests, KVM and this test share: a page for each vCPU, and three for all. */
#define SHARED 0x40000000ul

static void share_memory(void)
{
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, SHARED, 1, MAX_VCPUS + 3, 0);
	virt_map(vm, SHARED, SHARED, MAX_VCPUS + 3);
}

static void *guest_memory(__u64 address)
{
	return addr_gpa2hva(vm, address);
}

//// page_address
/* Where the kvmclock page of a vCPU is. */
static __u64 page_address(int vcpu)
{
	return SHARED + MAX_VCPUS * 0x1000 + vcpu * TIME_SIZE;
}

//// XEN
#define XEN (SHARED + (MAX_VCPUS + 1) * 0x1000)	/* where the pages of a Xen are */

//// create_vm
static void create_vm(void)
{
	if (vm)
		kvm_vm_free(vm);
	memset(vcpus, 0, sizeof(vcpus));
	vm = vm_create(MAX_VCPUS);
	steps = 0;
}

