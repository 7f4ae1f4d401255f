/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Checks of the VM's clock and the guest's kvmclock page.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// page_time
/* The time (ns) that a guest computes from its page and a TSC. */
static __s64 page_time(const struct step *page, __u64 tsc)
{
	__s64 delta = tsc - page->value[1];
	bool before = delta < 0;
	int shift = (signed char)page->value[4];
	unsigned __int128 part = before ? -delta : delta;

	part = shift < 0 ? part >> -shift : (__u64)(part << shift);
	part = part * page->value[3] >> 32;
	return page->value[2] + (before ? -(__s64)part : (__s64)part);
}

//// off_ppb
/*
 * How far the rate that KVM counts by may be from the host's raw clock's, in 10^-9: by the first and the last
 * steps' brackets. A kernel that corrects the rate of its TSC after the boot does so by less than 1 %.
 */
static double off_ppb(__s64 khz)
{
	double least = 0, most = 1e30, off;

	for (int i = 0; i < steps && i < 8; i++)
		for (int k = steps > 8 ? steps - 8 : 0; k < steps; k++) {
			__s64 shortest = brackets[k].ns_before - brackets[i].ns_after;
			__s64 longest = brackets[k].ns_after - brackets[i].ns_before;
			double low, high;

			if (shortest <= 0)
				continue;
			low = (__s64)(brackets[k].tsc_before - brackets[i].tsc_after) * 1e6 / shortest;
			high = (__s64)(brackets[k].tsc_after - brackets[i].tsc_before) * 1e6 / longest;
			least = low > least ? low : least;
			most = high < most ? high : most;
		}
	if (khz <= 0 || least <= 0 || most > 1e29)
		return 1e7;
	off = khz / least - 1 > 1 - khz / most ? khz / least - 1 : 1 - khz / most;
	off = off < 0 ? -off : off;
	return off * 1e9 + 1 < 1e7 ? off * 1e9 + 1 : 1e7;
}

//// goes_on
/* How far the VM's time is ahead of the host's raw clock at a step, at the least and at the most (ns). */
static bool ahead_ns(const struct step *step, bool page, __s64 khz, __s64 ahead[2])
{
	__s64 before = page ? step->guest.ns_before : step->ns_before;
	__s64 after = page ? step->guest.ns_after : step->ns_after;
	__s64 time = page ? page_time(step, step->tsc) : (__s64)step->value[0];
	__s64 slack = (after - brackets[0].ns_before) * off_ppb(khz) / 1e9 + 3;

	ahead[0] = time - after - slack;
	ahead[1] = time - before + slack;
	return !step->error && step->count && (!page || (step->value[0] && after));
}

/* The VM's time goes on from step `due` to step `seen`; each is a KVM_GET_CLOCK or SET, or a page. */
static enum result goes_on(const struct step *seen, bool page, const struct step *due, bool due_page, __s64 khz)
{
	__s64 ahead[2], wanted[2], gap = 0;

	if (!ahead_ns(due, due_page, khz, wanted) || !ahead_ns(seen, page, khz, ahead))
		return undecided("step %s or %s reported no time", due->name, seen->name);
	if (ahead[0] > wanted[1])
		gap = ahead[0] - wanted[1];
	else if (ahead[1] < wanted[0])
		gap = ahead[1] - wanted[0];
	if (!gap)
		return KEPT;
	return broken("step %s reports a time %lld ns %s step %s", seen->name, gap < 0 ? -gap : gap,
		      gap > 0 ? "ahead of" : "behind", due->name);
}

//// moves_with_real_time
/* From one KVM_GET_CLOCK to the other the VM's time went on as the host's real time, but for the step between. */
static enum result moves_with_real_time(const struct step *before, const struct step *by,
					const struct step *after, __s64 khz)
{
	__s64 clock = after->value[0] - before->value[0], realtime = after->value[2] - before->value[2];
	__s64 slack = (after->ns_after - before->ns_before) * (off_ppb(khz) + 500000) / 1e9;

	if (before->count < 4 || after->count < 4 || by->error)
		return undecided("KVM_GET_CLOCK reported no real time");
	slack += by->ns_after - by->ns_before;
	if (clock - realtime <= slack && realtime - clock <= slack)
		return KEPT;
	return broken("the VM's time advanced by %lld ns, the host's by %lld ns", clock, realtime);
}

//// is_stable
static bool is_stable(const struct step *page)
{
	return page->value[0] && page->value[5] & PAGE_STABLE;
}

//// on_one_line
/*
 * At one TSC, `seen` and the page `due` report one time. 2 ns are for rounding. Between them there may be a new
 * masterclock: the host's raw clock, by which KVM draws it, multiplies by a number of 24 bits. The page's time is
 * counted from the masterclock before, which may be older than the page.
 */
static enum result on_one_line(const struct step *seen, __u64 tsc, __s64 time, const struct step *due)
{
	__s64 between = seen->ns_after - due->ns_before, counted = page_time(due, tsc) - due->value[2];
	__s64 slack = 2, gap = time - page_time(due, tsc);

	if (counted < 0)
		counted = -counted;
	slack += (counted > between ? counted : between) / (1 << 24);

	if (gap <= slack && gap >= -slack)
		return KEPT;
	return broken("at TSC %llu step %s reports a time %lld ns %s step %s", tsc, seen->name,
		      gap < 0 ? -gap : gap, gap > 0 ? "ahead of" : "behind", due->name);
}

//// page_on_line
static enum result page_on_line(const struct step *seen, const struct step *due)
{
	if (!due->value[0])
		return broken("step %s read no page: KVM never wrote it", due->name);
	if (!is_stable(due) || !is_stable(seen) || !seen->tsc)
		return undecided("step %s or %s read no page of a masterclock", due->name, seen->name);
	return on_one_line(seen, seen->tsc, page_time(seen, seen->tsc), due);
}

//// clock_on_line
/* `offset` and `ratio` (with so many `bits` after the point) are those of the vCPU whose page is due. */
static enum result clock_on_line(const struct step *clock, __u64 offset, __u64 ratio, int bits,
				 const struct step *due)
{
	__u64 tsc = (__u64)((unsigned __int128)clock->value[3] * ratio >> bits) + offset;

	if (!due->value[0])
		return broken("step %s read no page: KVM never wrote it", due->name);
	if (!is_stable(due) || clock->count < 4)
		return undecided("step %s or %s reported no time of a masterclock", due->name, clock->name);
	return on_one_line(clock, tsc, clock->value[0], due);
}

//// shown
/* What debugfs shows of a vCPU of this VM: tsc-offset, or tsc-scaling-ratio. */
static bool shown(int vcpu, const char *what, __u64 *number)
{
	char path[128];
	long long read = 0;
	FILE *file;
	int found;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/vcpu%d/%s", getpid(), vm_fd(), vcpu, what);
	file = fopen(path, "r");
	if (!file)
		return false;
	found = fscanf(file, "%lld", &read);
	fclose(file);
	*number = read;
	return found == 1;
}

//// scaled_clock_on_line
static enum result scaled_clock_on_line(const struct step *clock, int vcpu, const struct step *due)
{
	__u64 offset, ratio;

	if (!shown(vcpu, "tsc-offset", &offset))
		return undecided("debugfs does not show the offset of vCPU %d", vcpu);
	if (!shown(vcpu, "tsc-scaling-ratio", &ratio))
		return clock_on_line(clock, offset, 1, 0, due);
	/* AMD's ratio has 32 bits after the point, Intel's 48. */
	return clock_on_line(clock, offset, ratio, ratio >> 40 ? 48 : 32, due);
}
