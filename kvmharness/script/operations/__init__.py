# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of a script, each one class that says all there is to say of it (see `base`).

vcpu    a vCPU comes to be; its TSC offset
msr     MSRs written and read from outside
khz     the rates of vCPUs and of the VM
guest   a guest runs, alone or with others, or writes an MSR itself
hyperv  the reference time of a guest that takes its hypervisor for a Hyper-V
clock   the VM's clock and the kvmclock pages
xen     the time of a guest whose VM is a Xen's
runstate  what a Xen's vCPU has done with its time
thread  the playing thread moves, or waits
steal   steal time, and a thread that competes for the CPU
host    the clock of the machine that KVM runs on
timer   an interrupt chip, and the local APIC's timer in TSC-deadline mode
"""
