# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel says on its console, read for what is wrong with it."""

import re
from dataclasses import dataclass

from kvmharness.lab.machines.protocol import PLAYING

# The lines with which a kernel reports a fault of its own, each with what it is. After any of these no
# result counts. They are read from their beginning, as the kernel prints them: "DEBUG: ..." is none, nor is
# what a kernel says of a user's program ("traps: x[9] general protection fault ip:...").
_SUBSYSTEM = r"(?:[a-z][\w ]*: )?"
_LOCKED, _STALLED = "a CPU was locked up", "a CPU was stalled"
_LOCKUPS = (_LOCKED, _STALLED)
_DEADLY = (
    (r"Kernel panic - not syncing", "the kernel panicked"),
    (_SUBSYSTEM + r"BUG: (soft lockup|workqueue lockup)", _LOCKED),
    (r"(NMI )?" + _SUBSYSTEM + r"(CPU\d+: )?Watchdog detected hard LOCKUP", _LOCKED),
    # rcu_cpu_stall_suppress keeps these away where time is the host's.
    (_SUBSYSTEM + r"INFO: rcu_(sched|preempt|bh) (self-)?detected (expedited )?stalls? on", _STALLED),
    (_SUBSYSTEM + r"BUG: ", "the kernel hit a bug of its own"),
    (_SUBSYSTEM + r"kernel BUG at ", "the kernel hit a bug of its own"),
    (r"(traps: )?PANIC: ", "the kernel panicked"),
    # What __die_header() prints of every oops, whatever trap it was (arch/x86/kernel/dumpstack.c).
    (r"[A-Za-z][^\[\]]*: [0-9a-f]{4} \[#\d+\]( [A-Z_]+)*$", "the kernel oopsed"),
    (r"Oops: |general protection fault[,:] ", "the kernel oopsed"),
)
_FAULTS = [(re.compile(pattern), kind) for pattern, kind in _DEADLY]
_WARNING = re.compile(_SUBSYSTEM + r"WARNING: ")
# What a kernel says of a user's program: exc_page_fault() and show_signal() (arch/x86/mm/fault.c, traps.c). A
# program's name comes first and may be anything.
_OF_PROGRAM = re.compile(r"traps: .{0,16}\[\d+\] |.{0,16}\[\d+\]: segfault at ")
_ENDS = re.compile(r"[\r\n]+|(?=\[ *\d+\.\d{6}\])")
_STAMP = re.compile(r"^(\[ *\d+\.\d+\]\s*)?(\[ *[CT]\d+\]\s*)?")


@dataclass(frozen=True, slots=True)
class Remark:
    """A line on the console, what it is ("" for a warning), and what was played then ("" for nothing)."""

    line: str
    kind: str
    playing: str

    @property
    def is_lockup(self) -> bool:
        """Whether the kernel reports that a CPU did not come back in time."""
        return self.kind in _LOCKUPS

    @property
    def text(self) -> str:
        """The remark in a line."""
        when = f" during {self.playing}" if self.playing else ""
        return f"{self.kind or 'a warning'}{when}: {self.line}"


def remarks(console: str) -> list[Remark]:
    """The kernel's faults and warnings, in order."""
    found, playing = [], ""
    for raw in lines(console):
        line = _bare(raw)
        before, marker, name = line.partition(PLAYING.decode())
        if marker and not before:
            playing = name
            continue
        kind = _kind(line)
        if kind or _WARNING.match(line):
            found.append(Remark(line, kind, playing))
    return found


def lines(console: str) -> list[str]:
    """The lines that say anything. What a program left unended does not hide what the kernel says next."""
    return [line.strip() for line in _ENDS.split(console) if line.strip()]


def _bare(line: str) -> str:
    """A line without its time and caller."""
    return _STAMP.sub("", line)


def _kind(line: str) -> str:
    """What fault a bare line reports; "" for none."""
    if _OF_PROGRAM.match(line):
        return ""
    return next((kind for pattern, kind in _FAULTS if pattern.match(line)), "")


def worst(console: str) -> Remark | None:
    """The fault that came first; None if there is none."""
    return next((remark for remark in remarks(console) if remark.kind), None)


def warnings(console: str) -> tuple[str, ...]:
    """The warnings, a line each, for the report."""
    return tuple(remark.text for remark in remarks(console) if not remark.kind)


def playing(console: str) -> str:
    """The script that was played last; "" if none was begun."""
    return (
        console.rpartition(PLAYING.decode())[2].split("\n")[0].strip() if PLAYING.decode() in console else ""
    )


def last_words(console: str, count: int = 12) -> list[str]:
    """The last lines that say anything, after the earlier ones that name a fault."""
    said = lines(console)
    faults = [line for line in said[:-count] if _WARNING.match(_bare(line)) or _kind(_bare(line))]
    return faults[:count] + said[-count:]
