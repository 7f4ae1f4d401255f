# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of the rules of runstates, a Xen's pages, steal time, timers and a Hyper-V's reference time."""

from tests.mutant import Mutant, made_up

KEEPS = made_up("mainline-6.7")  # a kernel whose runstates stand still while the VM's clock is earlier

MUTANTS = (
    # Runstates
    Mutant(
        "the times of a runstate run back on every kernel",
        "runstate",
        "if keeps is False or (passed and",
        "if True or (passed and",
        KEEPS,
    ),
    Mutant(
        "the times of a runstate run back on no kernel",
        "runstate",
        "    if keeps is False or (passed and",
        "    keeps = True\n    if keeps is False or (passed and",
    ),
    Mutant(
        "a vCPU that entered no state yet was running",
        "runstate",
        "        return OFFLINE\n",
        "        return RUNNING\n",
    ),
    Mutant(
        "a vCPU stays in the state that it was in",
        "runstate",
        "kept=found.kept._replace(state=state, entered=now))\n    vcpu",
        "kept=found.kept._replace(state=was, entered=now))\n    vcpu",
    ),
    Mutant(
        "time passes for the state that is entered",
        "runstate",
        "_with_time(found.kept, was, _plus(found.kept.times[was], passed))",
        "_with_time(found.kept, state, _plus(found.kept.times[state], passed))",
    ),
    Mutant(
        "a state was entered when the one before it was",
        "runstate",
        "kept=found.kept._replace(state=state, entered=now))\n    vcpu",
        "kept=found.kept._replace(state=state))\n    vcpu",
    ),
    Mutant(
        "what the thread waited is taken off no running vCPU",
        "runstate",
        "times = (_less(running, grown), _plus(runnable, grown), *others)",
        "times = (running, runnable, *others)",
    ),
    Mutant(
        "times that are set may be later than the VM's clock",
        "runstate_operations",
        "    if now is None or least is None or least < entered:\n",
        "    if False:\n",
    ),
    Mutant(
        "times that are set may be no earlier than the VM's clock",
        "runstate_operations",
        "    if now is None or least is None or least + now.width >= entered:\n",
        "    if False:\n",
    ),
    Mutant(
        "times that are set are written to the page at once",
        "runstate_operations",
        "page=was.page or was.kept",
        "page=None",
        survives="no scenario sets the times of a vCPU whose page is switched on already",
    ),
    Mutant(
        "a runstate's page is not written at an entry to the guest",
        "runstate",
        "page=None if found.on else found.page",
        "page=found.page",
        survives="no scenario sets the times of a vCPU whose page is switched on already",
    ),
    # A Xen's pages
    Mutant(
        "naming the page that a Xen shares asks no vCPU for anything",
        "xen_operations",
        "    if world.xen_renews is not False:\n",
        "    if False:\n",
    ),
    Mutant(
        "the version of a Xen's wall clock grows by one",
        "xen_operations",
        "Quantity(2 * world.xen.times)",
        "Quantity(world.xen.times)",
    ),
    Mutant(
        "a Xen's wall clock is the real time",
        "xen_operations",
        "return now and clock and Interval(now.low - clock.high, now.high - clock.low)",
        "return now",
    ),
    Mutant(
        "a Xen's wall clock stays what it was first",
        "xen_operations",
        "_wall_clock(rules, world, action))",
        "world.xen.ns if world.xen else _wall_clock(rules, world, action))",
    ),
    Mutant(
        "a Xen's pages are never written",
        "masterclock",
        "        if vcpu.xen_time:\n            mark",
        "        if False:\n            mark",
    ),
    Mutant(
        "no kernel marks a Xen's pages",
        "masterclock",
        "if self.host.marks_xen is False or (new.stopped is False and old is False):",
        "if True:",
    ),
    Mutant(
        "every kernel marks a Xen's pages",
        "masterclock",
        "        if self.host.marks_xen is False or (new.stopped is False and old is False):\n"
        "            return False\n",
        "        if new.stopped:\n            return True\n",
        KEEPS,
    ),
    # Steal time
    Mutant(
        "a steal time's version grows by four",
        "steal",
        "version=page.version + 2",
        "version=page.version + 4",
    ),
    Mutant(
        "a steal time's MSR takes reserved bits",
        "vcpu_operations",
        "        if name == steal.STEAL_TIME and value & steal.RESERVED:\n",
        "        if False:\n",
    ),
    Mutant(
        "a steal time's page is always switched on",
        "steal",
        "    elif page.on:\n",
        "    elif True:\n",
    ),
    Mutant(
        "no thread ever waits",
        "steal",
        "most=EVER_NS",
        "most=least",
    ),
    # Timers
    Mutant(
        "a timer follows the TSC",
        "timer",
        "bounds(vcpu.armed_offset, world.unknowns)",
        "bounds(vcpu.l1_tsc_offset, world.unknowns)",
    ),
    Mutant(
        "a deadline is armed whatever the timer's mode",
        "timer",
        "    if vcpu.deadline_mode:\n        due",
        "    if True:\n        due",
    ),
    Mutant(
        "a deadline of 0 leaves the timer armed",
        "timer",
        "since) if deadline else None",
        "since) if deadline else vcpu.armed",
    ),
    Mutant(
        "a timer that has gone off stays armed",
        "timer",
        "own.armed, own.timer_requested = None, False",
        "own.timer_requested = False",
        survives="of a deadline that has come nothing is predicted but that it may fire",
    ),
    Mutant(
        "a restored APIC arms no timer",
        "timer",
        "    if vcpu.armed is not None:\n        write_deadline",
        "    if False:\n        write_deadline",
    ),
    Mutant(
        "an interrupt that waits is lost when an APIC is restored",
        "timer",
        "vcpu.timer_requested or requested",
        "False",
        survives="no scenario saves an APIC in which the interrupt waits already",
    ),
    Mutant(
        "KVM reckons a timer's time with more than 64 bits",
        "timer",
        "    laps = most // arithmetic.WORD\n",
        "    laps = least = 0\n",
    ),
    # A Hyper-V's reference time
    Mutant(
        "a reference time counts ns",
        "reference_time",
        "UNIT_NS = 100\n",
        "UNIT_NS = 1\n",
    ),
    Mutant(
        "a TSC page is never written",
        "reference_time",
        "        return world.hv_tsc_page_status is None or world.hv_tsc_page_status in _PENDING\n",
        "        return False\n",
    ),
    Mutant(
        "a TSC page is written again at each look",
        "reference_time",
        "        return world.hv_tsc_page_status is None or world.hv_tsc_page_status in _PENDING\n",
        "        return bool(world.hv_tsc_page)\n",
    ),
    Mutant(
        "a TSC page is left alone when the masterclock is looked at again",
        "reference_time",
        "            world.hv_tsc_page_status = HOST_CHANGED if certain else None\n",
        "            pass\n",
    ),
    Mutant(
        "a guest that has its TSC emulated gets a new TSC page",
        "reference_time",
        "kept = world.hv_tsc_page_status == HOST_CHANGED and world.hv_tsc_emulation_control",
        "kept = False",
    ),
    Mutant(
        "switching a TSC page on does not ask for a look at the masterclock",
        "reference_time",
        "        vcpu.request = True if value & ENABLE else vcpu.request\n",
        "",
    ),
)
