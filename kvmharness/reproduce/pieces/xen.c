/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What KVM tells the guest of a VM that is a Xen's, and checks of that: for every style.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// xen_attr KVM_XEN_HVM_SET_ATTR KVM_XEN_VCPU_SET_ATTR XEN_ATTR_SHARED XEN_ATTR_INFO XEN_ATTR_TIME XEN_ATTR_RUNSTATE XEN_ATTR_STATE XEN_ATTR_TIMES
/* struct kvm_xen_hvm_attr and kvm_xen_vcpu_attr; headers before 5.12 lack them. */
struct xen_attr {
	__u16 type, pad[3];
	__u64 value[8];
};

#ifndef KVM_XEN_HVM_SET_ATTR
#define KVM_XEN_HVM_SET_ATTR _IOW(KVMIO, 0xc9, struct xen_attr)
#define KVM_XEN_VCPU_SET_ATTR _IOW(KVMIO, 0xcb, struct xen_attr)
#endif

/* Of a VM the page that it shares; of a vCPU its vcpu_info, its time, its runstate, the state it enters, its times. */
enum { XEN_ATTR_SHARED = 1 };
enum { XEN_ATTR_INFO, XEN_ATTR_TIME, XEN_ATTR_RUNSTATE, XEN_ATTR_STATE, XEN_ATTR_TIMES };

//// xen_shared
/* The page that a Xen shares with its guest. */
static __u64 xen_shared(void)
{
	return XEN + 0x1000;
}

//// xen_info
/* There, what a vCPU has of its own. */
static __u64 xen_info(int vcpu)
{
	return xen_shared() + vcpu * 0x40;
}

//// xen_time
/* A vCPU's time once more, beside that page. */
static __u64 xen_time(int vcpu)
{
	return XEN + 0x600 + vcpu * TIME_SIZE;
}

//// set_xen_address
static int set_xen_address(int vcpu, __u16 type, __u64 address)
{
	struct xen_attr attr = { .type = type, .value = { address } };

	return vcpu_call(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}

//// set_xen
/* The VM is a Xen's from now on, and KVM writes the wall clock into the page that it shares. */
static struct step set_xen(const char *name)
{
	/* It has hypercalls, and by this MSR a guest may ask for a page of them. */
	struct kvm_xen_hvm_config config = { .flags = 1 << 1, .msr = 0x40000200 };
	struct xen_attr attr = { .type = XEN_ATTR_SHARED, .value = { xen_shared() >> 12 } };
	struct step step = begin(name);
	int result = vm_call(KVM_XEN_HVM_CONFIG, &config);

	end(&step, result ? result : vm_call(KVM_XEN_HVM_SET_ATTR, &attr));
	return step;
}

//// set_xen_time
/* KVM tells the vCPU the time from now on, in two places. */
static struct step set_xen_time(const char *name, int vcpu)
{
	struct step step = begin(name);
	int result = set_xen_address(vcpu, XEN_ATTR_INFO, xen_info(vcpu));

	end(&step, result ? result : set_xen_address(vcpu, XEN_ATTR_TIME, xen_time(vcpu)));
	return step;
}

//// read_xen_time
static struct step read_xen_time(const char *name, int vcpu)
{
	return read_time(name, vcpu, xen_time(vcpu));
}

//// read_xen_vcpu_info
/* The time is its second half. */
static struct step read_xen_vcpu_info(const char *name, int vcpu)
{
	return read_time(name, vcpu, xen_info(vcpu) + 0x20);
}

//// read_xen_wall_clock
/* Its version, and the real time (ns) at which the VM's clock was 0. */
static struct step read_xen_wall_clock(const char *name)
{
	const __u32 *wall = guest_memory(xen_shared() + 0x900), *high = guest_memory(xen_shared() + 0x924);
	struct step step = begin(name);

	step.value[0] = wall[0];
	step.value[1] = ((__u64)*high << 32 | wall[1]) * SECOND + wall[2];
	step.count = 2;
	end(&step, 0);
	return step;
}

//// wall_clock_is
/* It is real time less clock, as one KVM_GET_CLOCK reports both. KVM read the two for it at the step `by`. */
static enum result wall_clock_is(const struct step *wall, const struct step *by, const struct step *clock, __s64 khz)
{
	__s64 gap = wall->value[1] - (clock->value[2] - clock->value[0]);
	__s64 between = clock->ns_after - by->ns_before, slack;

	if (by->error || clock->count < 4)
		return undecided("step %s failed, or KVM_GET_CLOCK reported no real time", by->name);
	if (!wall->value[0] || wall->value[0] % 2)
		return broken("step %s: version %llu", wall->name, wall->value[0]);
	/* Real time is slewed by 500 millionths at the most; both are rounded down to a ns. */
	slack = (between < 0 ? -between : between) * (off_ppb(khz) + 500000) / 1e9 + took(by) + 4;
	if (gap <= slack && gap >= -slack)
		return KEPT;
	return broken("step %s reports a wall clock %lld ns %s real time and clock of step %s", wall->name,
		      gap < 0 ? -gap : gap, gap > 0 ? "ahead of" : "behind", clock->name);
}
