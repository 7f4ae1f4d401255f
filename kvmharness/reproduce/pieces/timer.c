/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Plain C: an interrupt chip, local APICs, and a guest that waits for its TSC-deadline timer.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// TIMER_VECTOR
#define TIMER_VECTOR 31

//// FIRED ARMED COUNTED
/* In the page of results: the guest's TSC when the interrupt came, and when it had written the deadline. */
#define FIRED 0x38
#define ARMED 0x78
#define COUNTED 0x80			/* what it counts while it waits with interrupts on */

//// real_mode_with_timer
/* The interrupt goes to its own place; the guest reaches its local APIC by MSRs (x2APIC mode). */
static void real_mode_with_timer(const struct guest *guest, int vcpu, struct kvm_sregs *sregs,
				 struct kvm_regs *regs)
{
	__u16 vector[2] = { guest->timer, CODE(vcpu) >> 4 };

	real_mode_with_vectors(guest, vcpu, sregs, regs);
	memcpy(memory + RESULTS(vcpu) + VECTORS + 4 * TIMER_VECTOR, vector, 4);
	sregs->apic_base |= 1 << 10;
}

//// create_irqchip
static struct step create_irqchip(const char *name)
{
	struct step step = begin(name);

	end(&step, ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	return step;
}

//// create_vcpu_with_apic
/*
 * As create_vcpu(), with a CPUID that offers the timer: before 6.14 KVM leaves that bit out of what it supports. It
 * does not wait for a SIPI of the first vCPU.
 */
static struct step create_vcpu_with_apic(const char *name, int vcpu, const struct guest *guest)
{
	static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[256]; } cpuid;
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct step step = create_vcpu(name, vcpu, guest);

	cpuid.head.nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid))
		skip_all("KVM does not say what CPUID it offers");
	for (__u32 i = 0; i < cpuid.head.nent; i++)
		if (cpuid.entries[i].function == 1)
			cpuid.entries[i].ecx |= 1 << 24;
	if (ioctl(vcpus[vcpu].fd, KVM_SET_CPUID2, &cpuid) || ioctl(vcpus[vcpu].fd, KVM_SET_MP_STATE, &runnable))
		skip_all("a vCPU's CPUID or state cannot be set");
	return step;
}

//// SPURIOUS REQUESTED LVT_TIMER lapic_value set_lapic_value
/* Registers of struct kvm_lapic_state. */
#define SPURIOUS 0xf0
#define REQUESTED (0x200 + 16 * (TIMER_VECTOR / 32))
#define LVT_TIMER 0x320

static __u32 lapic_value(const struct kvm_lapic_state *lapic, int place)
{
	__u32 value;

	memcpy(&value, lapic->regs + place, sizeof(value));
	return value;
}

static void set_lapic_value(struct kvm_lapic_state *lapic, int place, __u32 value)
{
	memcpy(lapic->regs + place, &value, sizeof(value));
}

//// take_lapic
/* The timer's entry of the local vector table; whether its interrupt waits to be taken. */
static void take_lapic(struct step *step, const struct kvm_lapic_state *lapic)
{
	step->count = step->error ? 0 : 2;
	step->value[0] = lapic_value(lapic, LVT_TIMER);
	step->value[1] = lapic_value(lapic, REQUESTED) >> TIMER_VECTOR % 32 & 1;
}

//// get_lapic
static struct step get_lapic(const char *name, int vcpu)
{
	struct kvm_lapic_state lapic = { 0 };
	struct step step = begin(name);

	end(&step, ioctl(vcpus[vcpu].fd, KVM_GET_LAPIC, &lapic));
	take_lapic(&step, &lapic);
	return step;
}

//// set_lapic
/* As KVM_GET_LAPIC reports it, but on, with the timer in TSC-deadline mode; its interrupt may have to be taken. */
static struct step set_lapic(const char *name, int vcpu, bool requested)
{
	struct kvm_lapic_state lapic = { 0 };
	struct step step = begin(name);
	int result = ioctl(vcpus[vcpu].fd, KVM_GET_LAPIC, &lapic);

	set_lapic_value(&lapic, SPURIOUS, lapic_value(&lapic, SPURIOUS) | 1 << 8);
	set_lapic_value(&lapic, LVT_TIMER, 2 << 17 | TIMER_VECTOR);
	if (requested)
		set_lapic_value(&lapic, REQUESTED, lapic_value(&lapic, REQUESTED) | 1u << TIMER_VECTOR % 32);
	end(&step, result < 0 ? result : ioctl(vcpus[vcpu].fd, KVM_SET_LAPIC, &lapic));
	take_lapic(&step, &lapic);
	step.value[1] = requested;
	return step;
}

//// stopped on_timeout run_for
static struct kvm_run *volatile stopped;

static void on_timeout(int signal)
{
	(void)signal;
	stopped->immediate_exit = 1;	/* a signal that comes just before KVM_RUN is not lost */
}

/* Runs a guest for so many ns, or until it exits; whether it did. */
static bool run_for(int vcpu, __s64 ns, int *result)
{
	struct sigaction action = { .sa_handler = on_timeout }, before;
	struct itimerval when = { .it_value = { ns / SECOND, ns % SECOND / 1000 + 1 } };

	stopped = vcpus[vcpu].run;
	stopped->immediate_exit = 0;
	sigaction(SIGALRM, &action, &before);
	setitimer(ITIMER_REAL, &when, NULL);
	do
		*result = ioctl(vcpus[vcpu].fd, KVM_RUN, 0);
	while (*result < 0 && errno == EINTR && !stopped->immediate_exit);
	alarm(60);			/* as it was: no guest may keep this test forever */
	sigaction(SIGALRM, &before, NULL);
	stopped->immediate_exit = 0;
	if (!*result)
		return true;
	*result = errno == EINTR ? 0 : *result;
	return false;
}

//// unfinished begin_again
static bool unfinished[MAX_VCPUS];

/* A guest that was stopped somewhere begins at its first instruction. */
static void begin_again(int vcpu)
{
	if (unfinished[vcpu])
		load_guest(vcpu, vcpus[vcpu].guest);
	unfinished[vcpu] = false;
}

//// wait_for_interrupt
/* The guest waits for its timer's interrupt, for so many ns: its TSC when that came, 0 if it did not come. */
static struct step wait_for_interrupt(const char *name, int vcpu, __s64 ns)
{
	__u8 *results = memory + RESULTS(vcpu);
	__u32 counted;
	struct step step;
	int result;

	memset(results + FIRED, 0, 8);
	step = begin(name);
	unfinished[vcpu] = !run_for(vcpu, ns, &result);
	/* A pending interrupt is taken at an entry. That none was is known once the guest went on after one. */
	memcpy(&counted, results + COUNTED, 4);
	for (int i = 1; unfinished[vcpu] && !result && i <= 50 && !memcmp(&counted, results + COUNTED, 4); i++)
		unfinished[vcpu] = !run_for(vcpu, i * 2 * MS, &result);
	end(&step, result);
	if (!unfinished[vcpu])
		check_survived(name, vcpu);
	memcpy(step.value, results + FIRED, 8);
	step.count = step.error ? 0 : 1;
	return step;
}

//// await_timer
static struct step await_timer(const char *name, int vcpu, __s64 ns)
{
	begin_again(vcpu);
	return wait_for_interrupt(name, vcpu, ns);
}

//// arm_and_await
/* The guest writes the deadline first: that, its TSC just after, then as await_timer() says. */
static struct step arm_and_await(const char *name, int vcpu, __u64 deadline, __s64 ns)
{
	const __u32 msr = MSR_IA32_TSC_DEADLINE;
	__u8 *results = memory + RESULTS(vcpu);
	struct step step;

	begin_again(vcpu);
	memset(results + ARMED, 0, 8);
	memcpy(results + MAILBOX_VALUE, &deadline, sizeof(deadline));
	memcpy(results + MAILBOX_MSR, &msr, sizeof(msr));
	step = wait_for_interrupt(name, vcpu, ns);
	step.value[2] = step.value[0];
	step.value[0] = deadline;
	memcpy(&step.value[1], results + ARMED, 8);
	step.count = step.error ? 0 : 3;
	return step;
}

//// timer_claim timer_fires
/*
 * The guest of the step `seen`, which waits for `ns`, takes its timer's interrupt once its TSC is at the deadline of
 * the step `due` (0: none). By the step `after`, if there is one, it has come.
 */
struct timer_claim {
	const struct step *seen, *due, *after;
	int deadline;			/* among the values of `due` */
	__s64 ns, khz;
};

/* No interrupt came. */
static enum result timer_lost(struct timer_claim claim, __u64 deadline, __s64 slack)
{
	const struct step *seen = claim.seen, *after = claim.after;
	__s64 since = after->ns_after - (seen->ns_before + claim.ns);

	if (after->error || !after->has_tsc)
		return undecided("step %s read no TSC", after->name);
	if (seen->count == 3 && !seen->value[1])
		return undecided("the guest of step %s did not come to write its deadline", seen->name);
	since = since < 0 ? 0 : since;
	if ((__s64)(after->tsc - since * claim.khz / 1000000 - deadline) <= slack)
		return undecided("the deadline did not come, or only after the guest had waited");
	return broken("step %s: no interrupt came in %lld ms, though the TSC was %llu then, beyond the deadline %llu",
		      seen->name, claim.ns / MS, after->tsc, deadline);
}

static enum result timer_fires(struct timer_claim claim)
{
	const struct step *seen = claim.seen, *due = claim.due;
	__u64 deadline = due->value[claim.deadline], fired;
	__s64 early;
	/* The host's timer by which KVM wakes up goes by CLOCK_MONOTONIC, which NTP may slew by 500 ppm. */
	__s64 slack = (seen->tsc_after - due->tsc_before) * ((off_ppb(claim.khz) + 500000) / 1e9);

	if (due->error || !due->count || seen->error || !seen->count)
		return undecided("step %s or %s read nothing", due->name, seen->name);
	fired = seen->value[seen->count - 1];
	early = deadline - fired;
	if (!fired)
		return deadline && claim.after ? timer_lost(claim, deadline, slack) : KEPT;
	if (!deadline)
		return broken("step %s: an interrupt came, though there was no deadline", seen->name);
	if (early <= 0)
		return KEPT;
	if (early <= slack)
		return undecided("the interrupt came so little before its time that the host's clock may have been slewed");
	return broken("step %s: the interrupt came %lld cycles before the guest's TSC was at the deadline of step %s",
		      seen->name, early, due->name);
}
