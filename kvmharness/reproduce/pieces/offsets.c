/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Checks of TSCs: offsets, answers, rates.
 *
 * Pieces of tests in C: each begins with four slashes and the names that it defines. A test gets those whose names it
 * uses (../pieces.py).
 */

//// held_up
/* Whether this test was held up between two steps: then they say nothing about the kernel. */
static bool held_up(const struct step *first, const struct step *last, __s64 within_ns)
{
	const struct step *bad = first->error ? first : last;
	__s64 apart = last->ns_after - first->ns_before;

	if (bad->error)
		undecided("step %s: %s", bad->name, strerror(bad->error));
	else if (apart >= within_ns)
		undecided("steps %s and %s were %lld ms apart, too far to say anything about the kernel",
			  first->name, last->name, apart / 1000000);
	return bad->error || apart >= within_ns;
}

//// offsets
/* TSC offsets, from the least one by `width` cycles on; modulo 2^64. */
struct offsets {
	__u64 least;
	__s64 width;
};

//// offsets_of
/* A TSC of v that was read or written while the host's went from b to a is an offset from v - a to v - b. */
static struct offsets offsets_of(const struct step *step)
{
	if (step->has_offset)
		return (struct offsets) { step->offset, 0 };
	return (struct offsets) { step->tsc - step->tsc_after, step->tsc_after - step->tsc_before };
}

//// beyond
/* How many cycles `seen` lies beyond `due`: negative below, 0 where they touch. */
static __s64 beyond(struct offsets seen, struct offsets due)
{
	__s64 above = seen.least - due.least;

	if (above > due.width)
		return above - due.width;
	return above + seen.width < 0 ? above + seen.width : 0;
}

//// says_offset
/* Whether a step says anything of its vCPU's offset. */
static bool says_offset(const struct step *step)
{
	return !step->error && (step->has_tsc || step->has_offset);
}

//// common_offsets
/* The offsets that all of these steps allow, as far as they say anything. */
static bool common_offsets(const struct step **steps, struct offsets *common)
{
	bool known = false;

	for (; *steps; steps++) {
		struct offsets other = offsets_of(*steps);
		__s64 above = other.least - common->least;

		if (!says_offset(*steps))
			continue;
		if (!known) {
			*common = other;
			known = true;
			continue;
		}
		if (beyond(other, *common))
			return undecided("the steps that say what is due disagree"), false;
		if (common->width > above + other.width)
			common->width = above + other.width;
		if (above > 0) {
			common->least += above;
			common->width -= above;
		}
	}
	if (!known)
		undecided("the steps that say what is due read nothing");
	return known;
}

//// offset_claim same_offset
/* Steps `seen` have to show the TSC offset that the steps `due` wrote or read. */
struct offset_claim {
	const struct step *seen[48], *due[8];
	const struct step *instead;	/* what a vCPU would count by otherwise */
	const char *otherwise;		/* and what that means */
	const struct step *first, *last;	/* these have to follow each other soon */
	__s64 within_ns;
	__s64 slack;			/* cycles that nobody minds */
};

static enum result same_offset(struct offset_claim claim)
{
	const struct step *instead = claim.instead;
	struct offsets due = { 0 };
	bool read = false;

	if (claim.first && held_up(claim.first, claim.last, claim.within_ns))
		return UNDECIDED;
	if (instead && instead->error)
		return undecided("step %s: %s", instead->name, strerror(instead->error));
	if (!common_offsets(claim.due, &due))
		return UNDECIDED;
	for (const struct step **each = claim.seen; *each; each++) {
		const struct step *step = *each;
		__s64 gap = says_offset(step) ? beyond(offsets_of(step), due) : 0;
		bool explained = claim.otherwise && !beyond(offsets_of(step), offsets_of(instead));

		if (gap > claim.slack || gap < -claim.slack)
			return broken("step %s: %s %lld, %lld cycles %s than due%s%s", step->name,
				      step->has_offset ? "offset" : "TSC",
				      (__s64)(step->has_offset ? step->offset : step->tsc),
				      gap < 0 ? -gap : gap, gap < 0 ? "less" : "more",
				      explained ? ": " : "", explained ? claim.otherwise : "");
	}
	for (const struct step **each = claim.seen; *each; each++) {
		const struct step *step = *each;

		if (says_offset(step) && instead && !beyond(offsets_of(step), offsets_of(instead)))
			return undecided("step %s took %llu cycles, too long to tell", step->name,
					 step->tsc_after - step->tsc_before);
		if (!says_offset(step) && step->by_guest)
			return undecided("the guest of step %s read nothing", step->name);
		read |= says_offset(step);
	}
	return read ? KEPT : undecided("no step read anything");
}

//// same_value
static enum result same_value(const struct step *seen, const struct step *due, int place)
{
	if (seen->error || !seen->count)
		return undecided("step %s read nothing: %s", seen->name, strerror(seen->error));
	if (due->count <= place)
		return undecided("step %s read nothing: %s", due->name, strerror(due->error));
	if (seen->value[0] == due->value[place])
		return KEPT;
	return broken("step %s: %llu, step %s: %llu", seen->name, seen->value[0], due->name, due->value[place]);
}

//// ends_with
/* `errors` are the errnos that it may end with, 0 for success; the last one is -1. */
static enum result ends_with(const struct step *step, const int *errors)
{
	for (; *errors >= 0; errors++)
		if (step->error == *errors)
			return KEPT;
	if (step->error == ENOMEM || step->error == EINTR)
		return undecided("step %s: %s", step->name, strerror(step->error));
	return broken("step %s: %s", step->name, step->error ? strerror(step->error) : "success");
}

//// clock_is_stable
static enum result clock_is_stable(const struct step *clock, bool stable)
{
	if (clock->error)
		return undecided("step %s: %s", clock->name, strerror(clock->error));
	if (!!(clock->value[1] & KVM_CLOCK_TSC_STABLE) == stable)
		return KEPT;
	return broken("step %s: KVM_GET_CLOCK returned flags %#llx, %s KVM_CLOCK_TSC_STABLE", clock->name,
		      clock->value[1], stable ? "without" : "with");
}

//// says_host_time
static enum result says_host_time(const struct step *clock)
{
	return clock->count == 4 ? KEPT : broken("step %s: flags %#llx", clock->name, clock->value[1]);
}

//// reads_something
static enum result reads_something(const struct step *step)
{
	return step->count ? KEPT : broken("the guest of step %s read nothing", step->name);
}

//// page_says
/* Which of these `flags` the page has to have, and which it may not have. */
static enum result page_says(const struct step *page, __u64 flags, __u64 not)
{
	if (!page->value[0] || page->value[0] % 2)
		return broken("step %s: version %llu", page->name, page->value[0]);
	if ((page->value[5] & flags) == flags && !(page->value[5] & not))
		return KEPT;
	return broken("step %s: flags %#llx, which should have %#llx and not %#llx", page->name,
		      page->value[5], flags, not);
}

//// never_backwards
static enum result never_backwards(const struct step **seen)
{
	const struct step *before = NULL;
	__u64 last = 0;

	for (; *seen; seen++) {
		const struct step *step = *seen;

		if (step->error || !step->has_tsc)
			return undecided("step %s read no TSC: %s", step->name, strerror(step->error));
		for (int i = step->by_guest ? 0 : step->count - 1; i < step->count; i++) {
			__u64 tsc = step->by_guest ? step->value[i] : step->tsc;

			if (before && (__s64)(tsc - last) < 0)
				return broken("step %s: TSC %llu, less than the %llu of step %s", step->name,
					      tsc, last, before->name);
			last = tsc;
			before = step;
		}
	}
	return KEPT;
}

//// due_cycles
/* The least and the most cycles that a TSC of `khz` counts between two steps. */
static void due_cycles(const struct step *since, const struct step *first, const struct step *last,
		       __s64 khz, __s64 host_khz, __s64 due[2])
{
	__s64 ns[2] = { last->ns_before - first->ns_after, last->ns_after - since->ns_before };
	__s64 host[2] = { last->tsc_before - first->tsc_after, last->tsc_after - since->tsc_before };

	for (int i = 0; i < 2; i++) {
		__s64 by_time = (__int128)ns[i] * khz / 1000000;
		__s64 by_cycles = (__int128)host[i] * khz / host_khz;
		__s64 off = khz > host_khz ? khz - host_khz : host_khz - khz;

		due[i] = by_time;
		if (i ? by_cycles > due[i] : by_cycles < due[i])
			due[i] = by_cycles;
		/* KVM leaves rates so near the host's alone (kvm.tsc_tolerance_ppm). */
		if (off * 1000000 <= host_khz * 250 && (i ? host[i] > due[i] : host[i] < due[i]))
			due[i] = host[i];
	}
	due[0] -= 2 + (due[0] >> 31);
	due[1] += 2 + (due[1] >> 31);
}

//// rate_claim counts_at
/* A TSC counts at a rate from one step to another. It may have stood still `since` a step. */
struct rate_claim {
	const struct step *first, *last, *since, *created;
	const struct step *khz, *instead;	/* the rate, and the one that it would have otherwise */
	__s64 entries_ns;			/* for how long guests were entered meanwhile */
};

static enum result counts_at(struct rate_claim claim)
{
	const struct step *since = claim.since ? claim.since : claim.first;
	__s64 khz = claim.khz->value[0], host_khz = claim.created->value[0];
	__s64 counted = claim.last->tsc - claim.first->tsc, due[2];

	if (claim.first->error || !claim.first->has_tsc || claim.last->error || !claim.last->has_tsc)
		return undecided("step %s or %s read no TSC", claim.first->name, claim.last->name);
	if (claim.khz->error || !claim.khz->count)
		return undecided("step %s: %s", claim.khz->name, strerror(claim.khz->error));
	due_cycles(since, claim.first, claim.last, khz, host_khz, due);
	if (counted > due[1] && counted <= due[1] + (__int128)claim.entries_ns * khz / 1000000)
		return undecided("KVM may have been interrupted while it caught up");
	if (counted < due[0] || counted > due[1])
		return broken("the TSC counted %lld cycles from step %s to %s, at %lld kHz it has to be %lld to %lld",
			      counted, claim.first->name, claim.last->name, khz, due[0], due[1]);
	if (claim.instead && claim.instead->error)
		return undecided("step %s: %s", claim.instead->name, strerror(claim.instead->error));
	if (claim.instead) {
		due_cycles(since, claim.first, claim.last, claim.instead->value[0], host_khz, due);
		if (counted >= due[0] && counted <= due[1])
			return undecided("too little time passed to tell the rates apart");
	}
	return KEPT;
}

//// scaled_by
/* A TSC is the host's by the ratio that one step reports, plus the offset that another reports. */
static enum result scaled_by(const struct step *seen, const struct step *scale, const struct step *offset)
{
	__u64 ratio = scale->value[0], bits = scale->value[1], least, most;

	if (scale->error || offset->error || seen->error || !seen->has_tsc)
		return undecided("step %s, %s or %s read nothing", scale->name, offset->name, seen->name);
	if (!ratio || bits > 63)
		return broken("step %s reports a ratio of %llu / 2^%llu", scale->name, ratio, bits);
	least = (__u64)((unsigned __int128)seen->tsc_before * ratio >> bits) + offset->offset;
	most = (__u64)((unsigned __int128)seen->tsc_after * ratio >> bits) + offset->offset;
	if (seen->tsc - least <= most - least)
		return KEPT;
	return broken("step %s reads TSC %llu, not %llu to %llu", seen->name, seen->tsc, least, most);
}
