# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the model: each rule removed or altered, by a change of its text.

A mutant is noticed if under it a trace becomes impossible that a kernel really left. `on` says which kernel
and machine: those the lab boots, or one that the model itself makes up, for what no kernel of the lab does.
"""

from dataclasses import dataclass

# Kernel and machine, and the policy that the kernel has.
OLD = "debian:6.1 on amd"
NEW = "debian:6.12 on amd"
INTEL = "debian:6.12 on intel"
UNSTABLE = "debian:6.12 on amd-unstable"
SMP = "debian:6.1 on amd-smp"
BOOTED = {
    OLD: "mainline-before-6.7",
    NEW: "mainline-6.7",
    INTEL: "mainline-6.7",
    UNSTABLE: "mainline-6.7",
    SMP: "mainline-before-6.7",
}


def made_up(policy: str) -> str:
    """A kernel that the model makes up, with that policy."""
    return f"made up, {policy}"


@dataclass(frozen=True, slots=True)
class Mutant:
    """In the source of kvmharness.model.`module`, `old` (which is there once) becomes `new`.

    `survives` says why nothing notices it, "" if something does.
    """

    name: str
    module: str
    old: str
    new: str
    on: str = NEW
    survives: str = ""


MUTANTS = (
    # The policies' choices, as the rules apply them
    Mutant(
        "the gate is never opened by a write",
        "rules",
        'if user and ("value" if data else "zero") in self.policy.user_set_by:',
        "if False:",
    ),
    Mutant(
        "a write of 0 does not open the gate",
        "rules",
        'if user and ("value" if data else "zero") in self.policy.user_set_by:',
        'if user and data and "value" in self.policy.user_set_by:',
    ),
    Mutant(
        "only a write of 0 opens the gate",
        "rules",
        'if user and ("value" if data else "zero") in self.policy.user_set_by:',
        'if user and not data and "zero" in self.policy.user_set_by:',
    ),
    Mutant(
        "the kernel's own write opens the gate",
        "rules",
        'if user and ("value" if data else "zero") in self.policy.user_set_by:',
        "if True:",
    ),
    Mutant(
        "the attribute does not open the gate",
        "rules",
        'if "attribute" in self.policy.user_set_by:',
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
        'return "userspace had set no TSC of this VM before"',
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
    # kvm_synchronize_tsc()
    Mutant(
        "a write of 0 is a value like any other",
        "rules",
        'if data == 0 and policy.user_zero == "snaps":',
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
        "return Interval(last.low + elapsed.low, last.high + elapsed.high)\n\n    def _write",
        "return last\n\n    def _write",
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
        "value = written = Interval(data + elapsed.low, data + elapsed.high)",
        "value = written = Interval(data, data)",
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
    # Loads and runs
    Mutant(
        "with an unstable TSC a load leaves the offset alone",
        "rules",
        "if self.policy.honours_writes and (early or not self.host.stable):",
        "if self.policy.honours_writes and early:",
        UNSTABLE,
    ),
    Mutant(
        "a load on another CPU leaves the offset alone",
        "rules",
        "if self.policy.honours_writes and (early or not self.host.stable):",
        "if self.policy.honours_writes and not self.host.stable:",
        made_up("like-xu-v1"),
    ),
    Mutant(
        "a load on the same CPU counts as one on another",
        "rules",
        "early = moved and not vcpu.has_run",
        "early = not vcpu.has_run",
        made_up("like-xu-v1"),
    ),
    Mutant(
        "a load on another CPU sets the offset anew, whatever the policy",
        "rules",
        'early = moved and not vcpu.has_run and self.policy.reloads == "before-first-run"',
        "early = moved and not vcpu.has_run",
        SMP,
    ),
    Mutant(
        "nothing is caught up with",
        "masterclock",
        "        if vcpu.tsc_catchup:\n",
        "        if False:\n",
        UNSTABLE,
    ),
    Mutant(
        "a rate above the host's is not caught up with",
        "rates",
        "                vcpu.tsc_catchup = True\n",
        "",
    ),
    # MSRs
    Mutant(
        "a host's write of TSC_ADJUST is not kept",
        "rules",
        "world.vcpus[number].ia32_tsc_adjust_msr = Quantity(value)",
        "pass",
    ),
    Mutant(
        "a host's write of TSC_ADJUST moves the TSC",
        "rules",
        "world.vcpus[number].ia32_tsc_adjust_msr = Quantity(value)",
        "vcpu = world.vcpus[number]\n        moved = Quantity(value).plus(vcpu.ia32_tsc_adjust_msr, -1)\n"
        "        vcpu.l1_tsc_offset = vcpu.l1_tsc_offset.plus(moved)\n"
        "        vcpu.ia32_tsc_adjust_msr = Quantity(value)",
    ),
    # Rates
    Mutant(
        "a TSC is not scaled",
        "rates",
        "        if vcpu.ratio is None:\n            return tsc\n        slowest",
        "        if True:\n            return tsc\n        slowest",
        INTEL,
    ),
    Mutant(
        "time passes at the host's rate for every vCPU",
        "rates",
        "slowest, fastest = self.khz(vcpu)",
        "slowest = fastest = self.host.khz or 0",
        INTEL,
    ),
    Mutant(
        "a rate that is refused is not noted",
        "rates",
        "        if not bits:\n            found = []\n            if khz <= base + slack:\n"
        "                found.append((world.fork(), False))",
        "        if not bits:\n            found = []\n            if khz <= base + slack:\n"
        "                vcpu.virtual_tsc_khz = base\n                found.append((world.fork(), False))",
    ),
    Mutant(
        "no rate is refused",
        "rates",
        "                found.append((world.fork(), False))\n",
        "                found.append((world.fork(), True))\n",
    ),
    Mutant(
        "only the host's own rate needs no scaling",
        "arithmetic",
        "return low <= khz <= high",
        "return khz == host_khz",
        survives="no machine of the lab has been up for long enough to know its own rate to 250 millionths",
    ),
    Mutant(
        "without scaling a rate that KVM cannot have leaves a new vCPU the host's",
        "rules",
        "            vcpu.ratio = 0\n",
        "            pass\n",
    ),
    Mutant(
        "the VM's rate is not that of its vCPUs",
        "operations",
        "world.default_tsc_khz = deed.written[0] or (world.host_khz if rules.host.khz_exact else None)",
        "pass",
        made_up("mainline-6.7"),
    ),
    Mutant(
        "a rate may be as fast as it likes",
        "rates",
        "            for bits, most in _MAX_RATIO.items()\n            if",
        "            for bits, most in _MAX_RATIO.items()\n            if False and",
        INTEL,
    ),
    # The clock
    Mutant(
        "KVM_GET_CLOCK is stable whatever the masterclock",
        "clock_operations",
        "stable = world.use_master_clock and world.tsc_clocksource is not False",
        "stable = world.tsc_clocksource is not False",
    ),
    Mutant(
        "KVM_GET_CLOCK is never stable",
        "clock_operations",
        "stable = world.use_master_clock and world.tsc_clocksource is not False",
        "stable = False",
    ),
    # The VM's clock and the guest's pages
    Mutant(
        "a guest's page is never written",
        "masterclock",
        "        if not vcpu.pv_time or not self.policy.honours_writes:\n",
        "        if True:\n",
    ),
    Mutant(
        "every page is stable",
        "masterclock",
        "            stable=world.use_master_clock,\n",
        "            stable=True,\n",
    ),
    Mutant(
        "a page is not asked for when the masterclock has changed",
        "masterclock",
        "                vcpu.clock_request = vcpu.clock_request or (True if certain else None)\n",
        "                pass\n",
        survives="at every run a page may be written without being asked for, and then says how things are",
    ),
    Mutant(
        "versions grow by four",
        "masterclock",
        "version=(old.version + 1 | 1) + 1 if old else 2",
        "version=(old.version + 1 | 1) + 3 if old else 4",
    ),
    Mutant(
        "no guest is told that it was stopped",
        "clock_operations",
        "    vcpu.stopped_request = vcpu.clock_request = True\n",
        "    vcpu.clock_request = True\n",
    ),
    Mutant(
        "KVM_KVMCLOCK_CTRL is never refused",
        "clock_operations",
        "    refused = [] if on else [Outcome(world.fork(), (), REFUSED)]\n",
        "    refused: list[Outcome] = []\n",
    ),
    Mutant(
        "the old MSR is like the new one",
        "masterclock",
        "            world.boot_vcpu_runs_old_kvmclock = old\n",
        "            pass\n",
    ),
    Mutant(
        "the clock cannot be set",
        "masterclock",
        "        world.kvmclock_offset = world.unknown(\n"
        "            Interval(clock - moment.ns.high - slack, clock - moment.ns.low + slack)\n"
        "        )\n",
        "",
    ),
)
