# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel says on its console, read for what is wrong with it."""

import re
from dataclasses import dataclass

from kvmharness.lab.machines.protocol import PLAYING

# What the kernel calls its faults, each with what it is. After any of these no result counts.
_DEADLY = (
    ("Kernel panic", "the kernel panicked"),
    ("soft lockup", "a CPU was locked up"),
    ("hard LOCKUP", "a CPU was locked up"),
    ("BUG:", "the kernel hit a bug of its own"),
    ("Oops:", "the kernel oopsed"),
    ("general protection fault", "the kernel oopsed"),
)
_WARNING = "WARNING:"
_STAMP = re.compile(r"^(\[ *\d+\.\d+\]\s*)?(\[ *[CT]\d+\]\s*)?")


@dataclass(frozen=True, slots=True)
class Remark:
    """A line on the console, what it is ("" for a warning), and what was played then ("" for nothing)."""

    line: str
    kind: str
    playing: str

    @property
    def text(self) -> str:
        """The remark in a line."""
        when = f" during {self.playing}" if self.playing else ""
        return f"{self.kind or 'a warning'}{when}: {self.line}"


def remarks(console: str) -> list[Remark]:
    """The kernel's faults and warnings, in order."""
    found, playing = [], ""
    for raw in console.splitlines():
        line = _STAMP.sub("", raw.strip())
        before, marker, name = line.partition(PLAYING.decode())
        if marker and not before:
            playing = name
            continue
        kind = next((kind for words, kind in _DEADLY if words in line), "")
        if kind or _WARNING in line:
            found.append(Remark(line, kind, playing))
    return found


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
    """The last lines that say anything, behind the earlier ones that name a fault."""
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    faults = [line for line in lines[:-count] if _WARNING in line or any(each in line for each, _ in _DEADLY)]
    return faults[:count] + lines[-count:]
