# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things lie in a guest's memory (guest physical addresses, in bytes).

0x1000          page tables of long mode: PML4, PDPT, page directory; the first 2 MiB, one to one
0x3800 + 0x20 * n     vCPU n: its kvmclock page, when that is switched on (after the directory's entry)
0x3b00                where guests meet that run at once: a lock (u32); 0x08 the TSC that was read last (u64);
                      0x10 who read it (u64)
0x4000 + 0x2000 * n   vCPU n: a page of code, then a page of results
in the results  0x000  how many samples were taken (u64; only the endless programs count)
                0x010  the mailbox of a program that writes MSRs: the MSR's index (u32, 0 when it is empty),
                0x018  and the value to write (u64)
                0x020  of a program that meets others, how often it read its TSC right after another vCPU had,
                0x028  how often that was less, and by how many cycles at most (0x030; u64 each)
                0x038  of a program that waits for its timer: its TSC when the interrupt came (u64)
                0x040  of a guest of a Hyper-V, what it read of its reference time: its TSC, the counter, its
                       TSC again, the TSC page's sequence, scale and offset (u64 each); and
                0x070  whether it did so (u32)
                0x078  of a program that waits for its timer: its TSC when it had written the deadline (u64),
                0x080  and what it counts while it waits (u32)
                0x088  of a program with a guest of its own (L2), which of the two is to run: 0 L1, 1 L2,
                       2 L2 after L1 has entered it again (u32)
                0x090  L2's mailbox: the MSR's index (u32, 0 when it is empty),
                0x098  and the value to write (u64)
                0x0a0  what L2 read of its TSC (three u64)
                0x0b8  where its VMCB or VMCS is,
                0x0c0  where L2's first instruction is, and
                0x0c8  what L1 adds to its TSC for L2 (u64 each)
                0x0d0  how it enters L2: 0 by SVM, 1 by VMX, which is off, 2 by VMX (u32)
                0x0d8  with VMX, what its VMXON points to,
                0x0e0  what it is to write to its VMCS: pairs of a field and its value, up to field 0, and
                0x0e8  where it goes on when L2 has left (u64 each)
                0x0f0  of a guest that reads its steal time, the beginning of that page (three u64); and
                0x108  whether it did so (u32)
                0x400  its vectors of real mode, where a refused WRMSR goes, and the last one the timer's
                       interrupt (32 of 4 bytes each)
                0x600  the end of its stack, which grows downwards
                0x800  a ring of 256 samples (u64 each, guest TSC in cycles); a program that exits by itself
                       begins each time with the first
after the last vCPU   the page in which KVM gives a guest of a Hyper-V its reference time, one for all vCPUs
after that      the bitmap of MSRs of all that enter a guest of their own (L2) by VMX; it is empty
after that      three pages for each vCPU with an L2: its VMCB or VMCS, its host save area or what its VMXON
                points to, and the fields that it is to write to its VMCS
after that      a page with the steal time of each vCPU, 0x40 bytes for each; and from 0x600 on the time
                that a Xen tells each vCPU, 0x20 bytes for each; and from 0x900 on its runstate, 0x40 bytes
                for each
after that      the page that a Xen shares with its guest: 0x40 bytes for each vCPU, of which the last 0x20
                are that time once more; 0x900 the wall clock (version, s, ns: u32 each), and 0x924 the upper
                half of its s
"""

PML4 = 0x1000
PDPT = 0x2000
PAGE_DIRECTORY = 0x3000
MAX_VCPUS = 24
KVMCLOCK = 0x3800
KVMCLOCK_SIZE = 0x20
MEETING = 0x3B00
MEETING_SIZE = 0x18
CODE = 0x4000
VCPU_STRIDE = 0x2000
RESULTS = 0x1000  # behind the vCPU's code
TSC_PAGE = CODE + MAX_VCPUS * VCPU_STRIDE
MSR_BITMAP = TSC_PAGE + 0x1000
L2_CONTROLS = MSR_BITMAP + 0x1000
L2_CONTROL_STRIDE = 0x3000
STEAL_TIME = L2_CONTROLS + MAX_VCPUS * L2_CONTROL_STRIDE
STEAL_TIME_SIZE = 0x40
XEN_TIME = STEAL_TIME + 0x600
XEN_RUNSTATE = STEAL_TIME + 0x900
XEN_RUNSTATE_SIZE = 0x40
XEN_SHARED = STEAL_TIME + 0x1000
XEN_VCPU_INFO_SIZE = 0x40
XEN_WALL_CLOCK, XEN_WALL_CLOCK_HIGH = XEN_SHARED + 0x900, XEN_SHARED + 0x924
MEMORY_SIZE = XEN_SHARED + 0x1000

COUNT = 0x000
MAILBOX_INDEX = 0x010
MAILBOX_VALUE = 0x018
HANDOVERS, WARPS, LARGEST = 0x020, 0x028, 0x030
FIRED, ARMED, COUNTED = 0x038, 0x078, 0x080
REFERENCE, REFERENCE_READ = 0x040, 0x070
L2_WANTED = 0x088
L2_MAILBOX_INDEX, L2_MAILBOX_VALUE = 0x090, 0x098
L2_SAMPLES = 0x0A0
L2_CONTROL, L2_START, L2_OFFSET, L2_KIND = 0x0B8, 0x0C0, 0x0C8, 0x0D0
L2_FRACTION_BITS = 48  # of what L1's TSC is multiplied by
L2_VMXON, L2_FIELDS, L2_LEFT = 0x0D8, 0x0E0, 0x0E8
STOLEN, STOLEN_READ = 0x0F0, 0x108
VECTORS = 0x400
VECTORS_SIZE = 32 * 4
TIMER_VECTOR = 31
STACK = 0x600
SAMPLES = 0x800
RING_SIZE = 256

# OUT to this port makes KVM_RUN return, with an interrupt chip in the kernel as well as without.
EXIT_PORT = 0x10


def code_address(vcpu: int) -> int:
    """Where a vCPU's program begins; ValueError beyond the last vCPU that there is room for."""
    if not 0 <= vcpu < MAX_VCPUS:
        raise ValueError(f"vcpu {vcpu}: the guest's memory has room for vCPUs 0 to {MAX_VCPUS - 1}")
    return CODE + vcpu * VCPU_STRIDE


def kvmclock_address(vcpu: int) -> int:
    """Where a vCPU's kvmclock page is: what MSR SYSTEM_TIME has to be, plus 1, to switch it on."""
    return KVMCLOCK + vcpu * KVMCLOCK_SIZE


def steal_time_address(vcpu: int) -> int:
    """Where a vCPU's steal time is: what MSR STEAL_TIME has to be, plus 1, to switch it on."""
    return STEAL_TIME + vcpu * STEAL_TIME_SIZE


def xen_time_address(vcpu: int) -> int:
    """Where a Xen tells a vCPU the time, beside its vcpu_info (struct pvclock_vcpu_time_info)."""
    return XEN_TIME + vcpu * KVMCLOCK_SIZE


def xen_runstate_address(vcpu: int) -> int:
    """Where a Xen tells a vCPU its runstate (struct compat_vcpu_runstate_info, of a VM of 32 bits)."""
    return XEN_RUNSTATE + vcpu * XEN_RUNSTATE_SIZE


def xen_vcpu_info_address(vcpu: int) -> int:
    """Where a Xen's vCPU has what is its own in the page it shares (struct vcpu_info)."""
    return XEN_SHARED + vcpu * XEN_VCPU_INFO_SIZE


def results_address(vcpu: int) -> int:
    """Where a vCPU's results begin."""
    return code_address(vcpu) + RESULTS


def l2_multiplier(rate_ppm: int) -> int:
    """By what L1's TSC is multiplied for L2 to count so many millionths as fast."""
    return (rate_ppm << L2_FRACTION_BITS) // 1_000_000


def l2_control_address(vcpu: int) -> int:
    """Where the VMCB or VMCS is with which a vCPU enters its own guest."""
    return L2_CONTROLS + vcpu * L2_CONTROL_STRIDE
