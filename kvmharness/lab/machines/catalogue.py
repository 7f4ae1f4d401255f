# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines there are. To add one is to describe it here."""

from dataclasses import replace

from kvmharness.lab.machines.bochs import HZ, Bochs
from kvmharness.lab.machines.machine import KVM_FIRST, Machine
from kvmharness.lab.machines.qemu import Qemu

# Without cx16 because with it a 6.12 kernel crashed in most boots under QEMU 7.2. Without erms and fsrm
# because QEMU goes round once for each byte of a `rep stosb`: a third of what it did was to clear pages.
_EMULATED_CPU = ("-cpu", "max,-cx16,-erms,-fsrm")
# The kernel's own REP_GOOD, which every AMD CPU gets: without it a page is cleared by plain stores.
_PLAIN_STORES = "clearcpuid=112"
# icount makes time a function of the instructions executed, 2 ns each, and the TSC count at 1 GHz.
_COUNTING_INSTRUCTIONS = ("-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", *_EMULATED_CPU)

_STABLE = "tsc=reliable"
# The self-tests of the crypto library take a second, and a 6.12 kernel waits for them when it loads a
# module. An oops is a panic, so that it ends the machine and not only one of its tasks.
_OPTIONS = "console=ttyS0,115200 loglevel=5 nokaslr cryptomgr.notests oops=panic panic=-1"
# Calibrating the local APIC's timer waits 200 ms of machine time in a loop, 2 s of ours; without it the
# kernel keeps time by the HPET, and KVM does not care.
_ONE_CPU = "nolapic_timer"
# Time is the host's here, and a busy host holds up a CPU for seconds. That is no fault of the kernel's: its
# watchdogs are off, and it takes the timer for connected without waiting for some ticks of it (it panics
# when they do not come in time). KVM's time has nothing to do with any of these.
_REAL_TIME = "no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
# Bochs. Told its rate, the kernel neither measures it nor believes what the CPU says of itself (3.5 GHz).
# While an MWAIT ends at once, idle=halt makes waiting cost nothing. RDRAND and RDSEED (158, 306) are not
# used, as Bochs seeds them by the host's clock; HT (28) and XSAVE are not, as kernels complain of their
# CPUID. What mitigates leaks costs time. A reboot, as a triple fault, ends the machine.
_BOCHS = (
    f"tsc_early_khz={HZ // 1000} idle=halt clearcpuid=28,158,306 noxsave mitigations=off reboot=triple"
    # Preparations for tracing, and tests of a source of randomness: each more than 100 million instructions.
    " initcall_blacklist=trace_eval_init,ftrace_check_for_weak_functions,jent_mod_init"
)
# A minute after the boot the kernel has long since corrected the rate of its TSC, and KVM knows no other rate
# (init.c). Where instructions are counted a minute's sleep costs nothing. Elsewhere init waits only until the
# correction is made.
_A_MINUTE_OLD = "kvmharness.plays_at=60"
# On the host's KVM. A kernel that saw this KVM would take its clock for its own, and then have no masterclock
# for its guests.
_HOST_CPU = ("-accel", "kvm", "-cpu", "host,kvm=off,migratable=off,+invtsc", "-smp", "2")


def _on_kvm(name: str, vendor_module: str) -> Machine:
    """The machine of that name on the host's own KVM, which has to nest."""
    return Machine(
        name=f"{name}-kvm",
        summary=f"{name} on the host's own KVM: two of its CPUs, at their own speed",
        emulator=Qemu(_HOST_CPU, nested_by=vendor_module),
        vendor_module=vendor_module,
        kernel_options=f"{_OPTIONS} {_STABLE} {_REAL_TIME}",
        counts_instructions=False,
        may_protect_tscs=True,
    )


AMD = Machine(
    name="amd",
    summary="QEMU's emulation of one AMD CPU, counting instructions for its clock: two runs are the same "
    "to the byte, and a guest's sleeps cost no time",
    emulator=Qemu(_COUNTING_INSTRUCTIONS, keeps_snapshots=True),
    vendor_module="kvm_amd",
    kernel_options=f"{_OPTIONS} {_PLAIN_STORES} {_STABLE} {_ONE_CPU} {_A_MINUTE_OLD}",
    counts_instructions=True,
)

# KVM as it is where it is built in: loaded before that correction, it goes on with the rate of then.
AMD_EARLY = replace(
    AMD,
    name="amd-early",
    summary="amd with a KVM that was loaded before the kernel corrected the rate of its TSC, as where KVM is "
    "built in: guests' clocks run at the first rate, 49 ppm off the host's own",
    kernel_options=f"{AMD.kernel_options} {KVM_FIRST}",
)

AMD_SMP = Machine(
    name="amd-smp",
    summary="QEMU's emulation of two AMD CPUs that run at the same time, on the host's clock: threads move "
    "between CPUs; no two runs are the same",
    emulator=Qemu(("-accel", "tcg,thread=multi", "-smp", "2", *_EMULATED_CPU), keeps_snapshots=True),
    vendor_module="kvm_amd",
    kernel_options=f"{_OPTIONS} {_PLAIN_STORES} {_STABLE} {_REAL_TIME}",
    counts_instructions=False,
    nested=_on_kvm("amd-smp", "kvm_amd"),
)

INTEL = Machine(
    name="intel",
    summary="Bochs' emulation of one Intel CPU, counting instructions for its clock: two runs are the same "
    "to the byte, and with TSC scaling a guest may have a rate of its own",
    emulator=Bochs("corei7_skylake_x"),
    vendor_module="kvm_intel",
    kernel_options=f"{_OPTIONS} {_STABLE} {_ONE_CPU} {_A_MINUTE_OLD} {_BOCHS}",
    counts_instructions=True,
    nested=_on_kvm("intel", "kvm_intel"),
)


def _unstable(machine: Machine) -> Machine:
    """The same machine with a kernel that takes its TSC for unstable."""
    return replace(
        machine,
        name=f"{machine.name}-unstable",
        summary=f"{machine.name} with a kernel that takes its TSC for unstable: KVM then keeps guest TSCs in "
        "another way",
        kernel_options=machine.kernel_options.replace(_STABLE, "tsc=unstable"),
        nested=machine.nested and _unstable(machine.nested),
    )


AMD_UNSTABLE, AMD_SMP_UNSTABLE, INTEL_UNSTABLE = map(_unstable, (AMD, AMD_SMP, INTEL))

MACHINES = {
    machine.name: machine
    for machine in (AMD, AMD_SMP, INTEL, AMD_EARLY, AMD_UNSTABLE, AMD_SMP_UNSTABLE, INTEL_UNSTABLE)
}
