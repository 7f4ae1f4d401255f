# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the rules of loads and runs, MSRs, rates and the VM's clock."""

from tests.mutant import INTEL, SMP, UNSTABLE, Mutant, made_up

MUTANTS = (
    # What policies choose of the masterclock
    Mutant(
        "a masterclock needs equal offsets, whatever the policy",
        "masterclock",
        'if self.policy.stable_by == "offsets":',
        "if True:",
        made_up("clock-series-2026-stable"),
    ),
    Mutant(
        "a masterclock needs equal kHz, whatever the policy",
        "masterclock",
        'if self.policy.stable_by == "offsets":',
        "if False:",
        made_up("mainline-6.7"),
    ),
    Mutant(
        "a page is stable as long as there is a masterclock by kHz",
        "masterclock",
        "world.use_master_clock and self.all_match(world)",
        "world.use_master_clock",
        made_up("clock-series-2026-stable"),
    ),
    Mutant(
        "a masterclock comes with the first run, whatever the policy",
        "rules",
        'if self.policy.flags_from == "creation" and self.policy.honours_writes:',
        "if False:",
        made_up("clock-series-2026-flags"),
    ),
    Mutant(
        "the first generation begins with the first vCPU, whatever the policy",
        "rules",
        'if is_first and self.policy.epoch == "vm":',
        "if False:",
        made_up("clock-series-2026-epoch"),
    ),
    Mutant(
        "a generation that began with the VM counts from the first vCPU's creation",
        "rules",
        "tsc, ns = world.created or since_boot",
        "tsc, ns = moment",
        made_up("clock-series-2026-epoch"),
    ),
    Mutant(
        "the first vCPU is matched with the generation that began with the VM",
        "rules",
        "world.nr_vcpus_matched_tsc = -1",
        "world.nr_vcpus_matched_tsc = 0",
        made_up("clock-series-2026-epoch"),
    ),
    Mutant(
        "a TSC catches up to the masterclock's snapshot, whatever the policy",
        "masterclock",
        'now_alone = self.policy.catches_up_to == "now"',
        "now_alone = False",
        made_up("catches-up-to-now"),
    ),
    Mutant(
        "a clock is set to what it is a ns after the masterclock's snapshot",
        "masterclock",
        "offset, times = ZERO, [world.clock_at_master]",
        "offset, times = ZERO, [Interval(*(end - 1 for end in world.clock_at_master))]",
    ),
    # What no release has
    Mutant(
        "a clock that is set as a function is that of the host's TSC",
        "masterclock",
        "for guests in (scaled.low + offset.low, scaled.high + offset.high):",
        "for guests in scaled:",
        made_up("mainline-6.7"),
    ),
    Mutant(
        "a function of a TSC of any rate is taken",
        "masterclock",
        "return None if abs(apart - _RATE_HZ) <= _ROUNDED_HZ else apart < _RATE_HZ",
        "return True",
        made_up("mainline-6.7"),
    ),
    Mutant(
        "every vCPU has the ratio of the host's rate",
        "vcpu_operations",
        "ratio = 1 << bits if vcpu.ratio is None else vcpu.ratio",
        "ratio = 1 << bits",
        made_up("mainline-6.7"),
    ),
    Mutant(
        "KVM_GET_CLOCK_GUEST knows no masterclock",
        "clock_operations",
        "    if not world.masterclock:\n        return Outcome(world, (None,) * 6, _NO",
        "    if True:\n        return Outcome(world, (None,) * 6, _NO",
        made_up("mainline-6.7"),
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
        "                vcpu.tsc_catchup = vcpu.tsc_always_catchup = True\n",
        "",
    ),
    Mutant(
        "a rate above the host's is caught up with only when something else asks for it",
        "masterclock",
        "        if vcpu.tsc_always_catchup:\n",
        "        if False:\n",
        survives="then a run may catch up or may not, which allows for both",
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
        "return adjusted(host_khz, -ppm) <= khz <= adjusted(host_khz, ppm)",
        "return khz == host_khz",
    ),
    Mutant(
        "without scaling a rate that KVM cannot have leaves a new vCPU the host's",
        "rules",
        "            vcpu.ratio = 0\n",
        "            pass\n",
    ),
    Mutant(
        "the VM's rate is not that of its vCPUs",
        "vcpu_operations",
        "world.default_tsc_khz = action.written[0] or (world.host_khz if rules.host.khz_exact else None)",
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
        "stable = world.masterclock is not False",
        "stable = world.tsc_clocksource is not False",
    ),
    Mutant(
        "KVM_GET_CLOCK is never stable",
        "clock_operations",
        "stable = world.masterclock is not False",
        "stable = False",
    ),
    # The VM's clock and the guest's pages
    Mutant(
        "a guest's page is never written",
        "masterclock",
        "        if vcpu.pv_time:\n            vcpu.page = written(",
        "        if False:\n            vcpu.page = written(",
    ),
    Mutant(
        "every page is stable",
        "masterclock",
        "            else world.use_master_clock,\n",
        "            else True,\n",
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
        "pages",
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
        "a guest's write of TSC_ADJUST does not ask for its page",
        "rules",
        "            vcpu.clock_request = True\n",
        "",
        survives="at every run a page may be written without being asked for",
    ),
    Mutant(
        "with a real time, too, the clock goes on from just what was set",
        "masterclock",
        "        if realtime is not None:\n            since",
        "        if False:\n            since",
    ),
    Mutant(
        "the clock cannot be set",
        "masterclock",
        "        world.kvmclock_offset = world.unknown(\n"
        "            Interval(set_to.low - at.ns.high - slack, set_to.high - at.ns.low + slack)\n"
        "        )\n",
        "",
    ),
)
