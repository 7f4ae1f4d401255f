# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the rules of writes: policies, kvm_synchronize_tsc(), the offset attribute."""

from tests.mutant import INTEL, UNSTABLE, Mutant, made_up

MUTANTS = (
    # The policies' choices, as the rules apply them
    Mutant(
        "the gate is never opened by a write",
        "rules",
        'if user and self.policy.is_opened_by("zero" if data == ZERO else "value"):',
        "if False:",
    ),
    Mutant(
        "a write of 0 does not open the gate",
        "rules",
        'if user and self.policy.is_opened_by("zero" if data == ZERO else "value"):',
        'if user and data != ZERO and self.policy.is_opened_by("value"):',
    ),
    Mutant(
        "only a write of 0 opens the gate",
        "rules",
        'if user and self.policy.is_opened_by("zero" if data == ZERO else "value"):',
        'if user and data == ZERO and self.policy.is_opened_by("zero"):',
    ),
    Mutant(
        "a write that synchronizes leaves the time of the last one",
        "rules",
        "        return written, moment.ns\n",
        "        return written, world.last_tsc_nsec\n",
    ),
    Mutant(
        "the kernel's own write opens the gate",
        "rules",
        'if user and self.policy.is_opened_by("zero" if data == ZERO else "value"):',
        "if True:",
    ),
    Mutant(
        "the attribute does not open the gate",
        "rules",
        'if self.policy.is_opened_by("attribute"):',
        "if False:",
    ),
    Mutant(
        "the gate is open for the write that opens it",
        "rules",
        "        decisions = self._synchronizing(world, vcpu, data, moment, user)\n",
        "        world.user_set_tsc = world.user_set_tsc or user\n"
        "        decisions = self._synchronizing(world, vcpu, data, moment, user)\n",
    ),
    Mutant(
        "what a policy requires is not asked for",
        "rules",
        'return "userspace had not set a TSC of this VM before"',
        'return ""',
    ),
    Mutant(
        "whether the vCPU ran is not asked for",
        "rules",
        'return "the vCPU has not run"',
        'return ""',
        made_up("sean-christopherson"),
    ),
    Mutant(
        "a run leaves no trace of itself",
        "rules",
        "        world.vcpus[number].has_run = True\n",
        "",
        made_up("sean-christopherson"),
    ),
    Mutant(
        "whether vCPUs are matched is not asked for",
        "rules",
        'return "no other vCPU is matched"',
        'return ""',
        made_up("like-xu-v2"),
    ),
    Mutant(
        "a snap is remembered as the TSC the vCPU has",
        "rules",
        'if self.policy.snap_records == "guest":',
        "if True:",
    ),
    Mutant(
        "a snap is not remembered",
        "rules",
        'if self.policy.snap_records == "origin":',
        "if True:",
    ),
    Mutant(
        "a snap is remembered as the value written, whatever the policy",
        "rules",
        'if self.policy.snap_records == "guest":',
        "if False:",
        made_up("clock-series-2026"),
    ),
    Mutant(
        "a snap is remembered, whatever the policy",
        "rules",
        'if self.policy.snap_records == "origin":',
        "if False:",
        made_up("clock-series-2026-origin"),
    ),
    Mutant(
        "a rate that is set writes nothing, whatever the policy",
        "rules",
        "worlds = self._write_own_tsc(each, number, tsc, ratio, moment) if accepted else [each]",
        "worlds = [each]",
        made_up("clock-series-2026-khz"),
    ),
    Mutant(
        "a rate that is refused writes as well",
        "rules",
        "self._write_own_tsc(each, number, tsc, ratio, moment) if accepted else [each]",
        "self._write_own_tsc(each, number, tsc, ratio, moment)",
        made_up("clock-series-2026-khz"),
        survives="its rate is noted and keeps it from matching either way; only a clock read after that "
        "would show that the vCPUs are matched no longer, and no scenario reads one",
    ),
    Mutant(
        "a rate writes the TSC that the vCPU has by the new one",
        "rules",
        "        vcpu = world.vcpus[number]\n        tsc = Interval(low",
        "        vcpu = world.vcpus[number]\n"
        "        tsc = self.l1_tsc(world, vcpu, moment.tsc)\n"
        "        tsc = Interval(low",
        made_up("clock-series-2026-khz"),
    ),
    Mutant(
        "a rate writes as the kernel does",
        "rules",
        "worlds = self.synchronize_tsc(world, number, tsc, moment, user=True, kept=kept)",
        "worlds = self.synchronize_tsc(world, number, tsc, moment, user=False, kept=kept)",
        made_up("clock-series-2026-khz"),
    ),
    # kvm_synchronize_tsc()
    Mutant(
        "a write of 0 is a value like any other",
        "rules",
        'if data == ZERO and policy.user_zero == "snaps":',
        "if False:",
    ),
    Mutant(
        "a vCPU's creation synchronizes with nothing",
        "rules",
        "return [(True, _JOINED)]",
        "return [(False, _JOINED)]",
    ),
    Mutant(
        "no write synchronizes",
        "rules",
        "return [(answer, stories[answer])",
        "return [(False, stories[False])",
    ),
    Mutant(
        "every write synchronizes",
        "rules",
        "return [(answer, stories[answer])",
        "return [(True, stories[True])",
    ),
    Mutant(
        "the window is a tenth narrower",
        "rules",
        "window = khz * 1000 * policy.window_ns //",
        "window = khz * 900 * policy.window_ns //",
    ),
    Mutant(
        "the window is a tenth wider",
        "rules",
        "window = khz * 1000 * policy.window_ns //",
        "window = khz * 1100 * policy.window_ns //",
    ),
    Mutant(
        "the window is a second of the host's cycles",
        "rules",
        "window = khz * 1000 * policy.window_ns //",
        "window = (world.host_khz or khz) * 1000 * policy.window_ns //",
        INTEL,
    ),
    Mutant(
        "what was written last does not go on with the time",
        "rules",
        "return Interval(last.low + elapsed.low, last.high + elapsed.high)\n\n    def _write(",
        "return last\n\n    def _write(",
    ),
    Mutant(
        "the window goes round the end of 64 bits",
        "arithmetic",
        "return value < (expected + window) % WORD and (value + window) % WORD > expected % WORD",
        "return (value - expected + window) % WORD < 2 * window",
    ),
    Mutant(
        "the window includes its edges",
        "arithmetic",
        "return value < (expected + window) % WORD and (value + window) % WORD > expected % WORD",
        "return value <= (expected + window) % WORD and (value + window) % WORD >= expected % WORD",
        survives="a bracket would have to be a cycle wide to show the edge itself",
    ),
    Mutant(
        "the rate need not be the last writer's",
        "rules",
        "elif same_rate is False:",
        "elif same_rate is False and not world.last_tsc_khz:",
    ),
    Mutant(
        "who synchronizes gets the value written",
        "rules",
        "            offset = world.cur_tsc_offset\n            written, ns",
        "            offset = self._offset_for(world, vcpu, value, moment.tsc)\n            written, ns",
    ),
    Mutant(
        "who synchronizes gets the offset that was set last",
        "rules",
        "            offset = world.cur_tsc_offset\n            written, ns",
        "            offset = world.last_tsc_offset\n            written, ns",
        survives="a write that snaps records the generation's offset as the last one, and any other begins a "
        "generation: the two are one",
    ),
    Mutant(
        "with an unstable TSC no time is added to a write that synchronizes",
        "rules",
        "value = written = Interval(data.low + elapsed.low, data.high + elapsed.high)",
        "value = written = data",
        UNSTABLE,
    ),
    Mutant(
        "a write is not the last TSC a vCPU had",
        "rules",
        "vcpu.last_guest_tsc = value\n",
        "pass\n",
        UNSTABLE,
    ),
    # __kvm_synchronize_tsc() and kvm_arch_tsc_set_attr()
    Mutant(
        "an offset that is set is not the vCPU's",
        "rules",
        "self._commit(each, own, Quantity(offset), (written, moment.ns), matched)",
        "self._commit(each, own, own.l1_tsc_offset, (written, moment.ns), matched)",
    ),
    Mutant(
        "an offset that is set is remembered as a write of 0",
        "rules",
        "self._commit(each, own, Quantity(offset), (written, moment.ns), matched)",
        "self._commit(each, own, Quantity(offset), (Interval(0, 0), moment.ns), matched)",
    ),
    Mutant(
        "an offset that is set leaves the last write as it was",
        "rules",
        "self._commit(each, own, Quantity(offset), (written, moment.ns), matched)",
        "self._commit(each, own, Quantity(offset), (world.last_tsc_write, world.last_tsc_nsec), matched)",
    ),
    Mutant(
        "an offset that is set is not the last TSC a vCPU had",
        "rules",
        "        vcpu.last_guest_tsc = written\n",
        "",
        UNSTABLE,
    ),
    Mutant(
        "an equal offset does not match",
        "rules",
        "if same_rate is False or last is None or last.intersection(given) is None:",
        "if True:",
    ),
    Mutant(
        "every offset matches",
        "rules",
        "if same_rate is False or last is None or last.intersection(given) is None:\n"
        "            return [(world, False)]",
        "if world.last_tsc_khz:\n            return [(world, True)]",
    ),
    Mutant(
        "an equal offset matches at another rate",
        "rules",
        "if same_rate is False or last is None or last.intersection(given) is None:",
        "same_rate = True\n        if last is None or last.intersection(given) is None:",
        INTEL,
    ),
    Mutant(
        "the rate of the last writer is not remembered",
        "rules",
        "world.last_tsc_khz, world.last_host_rate_at = vcpu.virtual_tsc_khz, vcpu.host_rate_at",
        "world.last_tsc_khz = world.last_tsc_khz or vcpu.virtual_tsc_khz",
    ),
    Mutant(
        "the offset that was set last is not remembered",
        "rules",
        "        world.last_tsc_offset = offset\n",
        "",
    ),
    Mutant(
        "the vCPUs of the generation before count as its members",
        "rules",
        "other.in_generation = False",
        "pass",
    ),
    Mutant(
        "a new generation begins with those that were matched",
        "rules",
        "world.nr_vcpus_matched_tsc = 0",
        "pass",
    ),
    Mutant(
        "who is in the generation is counted again at each snap",
        "rules",
        "elif not vcpu.in_generation:",
        "else:",
    ),
    Mutant("nobody is counted as matched", "rules", "world.nr_vcpus_matched_tsc += 1", "pass"),
    Mutant(
        "who began the generation is counted too",
        "masterclock",
        "return world.nr_vcpus_matched_tsc + 1 == len(world.vcpus)",
        "return world.nr_vcpus_matched_tsc == len(world.vcpus)",
    ),
    Mutant(
        "the masterclock is never looked at again",
        "masterclock",
        "        if older and newer:\n            vcpu.request = True",
        "        if False:\n            vcpu.request = True",
        survives="then it may be or may not be, which allows for all that the rule does",
    ),
    Mutant(
        "a pending request for the masterclock is forgotten",
        "masterclock",
        "        elif request is not False:\n",
        "        elif False:\n",
    ),
    Mutant(
        "the last of those that are written at once is the first to be",
        "together",
        "permutations(range(len(numbers)))",
        "[tuple(reversed(range(len(numbers))))]",
        made_up("mainline-6.7"),  # on a kernel it is chance
    ),
    Mutant(
        "only the first of those that are written at once is",
        "together",
        "for place in order:",
        "for place in order[:1]:",
    ),
    # What debugfs shows
    Mutant(
        "debugfs shows what is to be taken away",
        "debugfs",
        "Interval(seen, seen)",
        "Interval(-seen, -seen)",
    ),
    Mutant(
        "debugfs shows the offset of the first vCPU",
        "debugfs",
        "narrow(world.vcpus[number].l1_tsc_offset",
        "narrow(world.vcpus[0].l1_tsc_offset",
    ),
    Mutant(
        "debugfs shows ratios as fractions of 2**32 on Intel",
        "debugfs",
        "abs(seen - vcpu.ratio) > vcpu.ratio_slack",
        "abs((seen << 16) - vcpu.ratio) > vcpu.ratio_slack",
        INTEL,
    ),
    Mutant(
        "what debugfs shows of an unstable TSC is asked",
        "debugfs",
        "if not event.debugfs or not rules.host.stable:",
        "if False:",
        UNSTABLE,
    ),
)
