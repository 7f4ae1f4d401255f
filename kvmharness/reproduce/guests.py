# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest executes, for C: bytes with their assembly beside them."""

from kvmharness.guests.program import Program
from kvmharness.guests.rdtsc import PROGRAMS
from kvmharness.reproduce.names import CannotExpressError

# What each does, in words, and its name in C.
_GUESTS = {
    "rdtsc-16": ("reads_tsc", "The guest leaves its TSC in its page of results, and exits; then again."),
    "rdtsc-64": ("reads_tsc_64", "In long mode the guest leaves its TSC, and exits; then again."),
    "rdtscp-16": ("reads_tscp", "The guest reads its TSC by RDTSCP, leaves it and exits; then again."),
    "rdmsr-16": ("reads_msr", "The guest leaves its TSC, the MSR of its TSC, and its TSC again."),
    "wrmsr-16": (
        "writes_msr",
        "The guest leaves its TSC before and after a WRMSR, which it finds in its mailbox.",
    ),
    "hyperv-16": (
        "reads_reference_time",
        "The guest writes the MSR in its mailbox; it leaves its TSC and what it reads of its reference time.",
    ),
    "timer-16": (
        "awaits_timer",
        "The guest writes the MSR in its mailbox; it leaves its TSC then and at its timer's interrupt.",
    ),
    "steal-16": (
        "reads_steal_time",
        "The guest writes the MSR in its mailbox, and leaves its TSC and what it reads of its steal time.",
    ),
}


def name(guest: str) -> str:
    """What a guest is called in C. CannotExpressError for one that C tests have not."""
    if guest not in _GUESTS:
        raise CannotExpressError(f"the guest {guest} is one that a test in C does not have yet")
    return _GUESTS[guest][0]


def code(guest: str) -> str:
    """The guest as a struct guest, with its code."""
    called, words = _GUESTS[guest][0], _GUESTS[guest][1]
    program = PROGRAMS[guest]
    lines = [f"/* {words} */", f"static const __u8 {called}_code[] = {{"]
    for instruction in program.instructions:
        if instruction.code:
            written = ", ".join(f"{byte:#04x}" for byte in instruction.code) + ","
            columns = 8 + len(written)
            tabs = "\t" * max(1, (56 - columns // 8 * 8) // 8)
            lines.append(f"\t{written}{tabs}/* {instruction.text} */")
        else:
            lines.append(f"{8 * chr(9)}/* {instruction.text} */".replace("\t" * 8, "\t\t\t\t\t\t\t"))
    fault = f"\t.fault = {program.place_of('fault')},\n" if program.catches_faults else ""
    timer = f"\t.timer = {program.place_of('timer')},\n" if program.awaits_timer else ""
    lines += [
        "};",
        "",
        f"static const struct guest {called} = {{",
        f"\t.code = {called}_code, .size = sizeof({called}_code), .samples = {program.takes},",
        f"{fault}{timer}\t.enter = {_enter(program)},",
        "};",
    ]
    return "\n".join(lines)


def _enter(program: Program) -> str:
    if program.bits == 64:
        return "long_mode"
    if program.awaits_timer:
        return "real_mode_with_timer"
    if program.reads_steal_time:
        return "real_mode_with_steal_time"
    if program.reads_reference:
        return "real_mode_with_tsc_page"
    return "real_mode_with_vectors" if program.catches_faults else "real_mode"
