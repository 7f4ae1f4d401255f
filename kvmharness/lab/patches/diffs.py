# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs as data, read out of a text that also has words, quoted or not. Pure.

A text may hold several: a mail quotes what it answers to, and has a diff of its own. What separates them is
words at their own level of quoting, another level, or a file that comes again. Words between the lines of a
quoted diff, at a level further out, are remarks on it and are passed over.
"""

import re
from dataclasses import dataclass, field

_HUNK = re.compile(r"@@ *-(\d+)(?:,(\d+))? *\+(\d+)(?:,(\d+))? *@@")
_QUOTES = re.compile(r"(?:> ?)*")
# What git says of a file besides its lines, and what that makes of it.
_NOT_PLAIN = {
    "old mode": "changes the mode of",
    "deleted file mode": "deletes",
    "rename from": "renames",
    "copy from": "copies",
    "Binary files": "has no text of",
    "GIT binary patch": "has no text of",
}
# What git says of a symbolic link, and of a submodule, in place of a file.
_NO_FILE = re.compile(r"(new file mode|index [0-9a-f]+\.\.[0-9a-f]+) (120000|160000)$")
_EXTENDED = (
    *_NOT_PLAIN,
    "index ",
    "new mode",
    "new file mode",
    "similarity",
    "dissimilarity",
    "rename",
    "copy",
)
_NOWHERE = "/dev/null"
# What a path of the kernel's begins with, where no a/ or b/ comes before it.
_ROOTS = ("arch/", "include/", "virt/", "Documentation/", "tools/", "kernel/", "drivers/", "lib/", "mm/")

# A line of a hunk: " " kept, "-" removed or "+" added; and the line, with the newline that ends it.
Line = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Hunk:
    """A hunk as it was mailed; `first` is the line of the old file where it says that it begins.

    In a `damaged` one kept lines have lost the blank that marks them.
    """

    header: str
    first: int
    lines: tuple[Line, ...]
    damaged: bool = False

    @property
    def before(self) -> list[str]:
        """The lines that must be there."""
        return [text for kind, text in self.lines if kind != "+"]

    @property
    def after(self) -> list[str]:
        """The lines that are there once it is applied."""
        return [text for kind, text in self.lines if kind != "-"]


@dataclass(slots=True)
class FileDiff:
    """What a diff does to one file, or that it makes a new one. With a `fault` it is no use for that file."""

    path: str
    hunks: list[Hunk] = field(default_factory=list)
    is_new: bool = False
    fault: str = ""


@dataclass(slots=True)
class Diff:
    """A diff of several files, `quoted` so many times. One with a `fault` ("deletes FILE") is no use."""

    quoted: int
    files: list[FileDiff] = field(default_factory=list)
    fault: str = ""


def read(text: str) -> list[Diff]:
    """The diffs in a text, in the order in which they stand there."""
    return _Reader(text).diffs()


class _FaultError(Exception):
    """A diff is not whole; the text follows "patch N"."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._lines = text.removesuffix("\n").split("\n")
        self._at = 0
        self._found: list[Diff] = []
        self._open: Diff | None = None  # what may go on

    def diffs(self) -> list[Diff]:
        while self._at < len(self._lines):
            depth = self._depth()
            try:
                if self._begins_file(depth):
                    self._file(depth)
                elif _HUNK.match(self._line(depth)):
                    self._further_hunks(depth)
                else:
                    self._words(depth)
            except _FaultError as fault:
                if self._open:
                    self._open.fault = self._open.fault or str(fault)
        return self._found

    def _depth(self) -> int:
        quotes = _QUOTES.match(self._lines[self._at])
        return quotes[0].count(">") if quotes else 0

    def _words(self, depth: int) -> None:
        """A line that is of no diff. It ends one, unless it is a remark on a quoted one."""
        if self._open and self._line(depth) and depth >= self._open.quoted:
            self._open = None
        self._at += 1

    def _content(self, ahead: int, depth: int) -> str | None:
        """A line without `depth` levels of quoting; None where it has not as many, and at the end."""
        if self._at + ahead >= len(self._lines):
            return None
        line = self._lines[self._at + ahead]
        for _ in range(depth):
            if not line.startswith(">"):
                return None
            line = line[1:].removeprefix(" ")
        return line

    def _line(self, depth: int, ahead: int = 0) -> str:
        return self._content(ahead, depth) or ""

    def _begins_file(self, depth: int) -> bool:
        line, following = self._line(depth), self._line(depth, 1)
        if line.startswith("diff --git "):
            return following.startswith((*_EXTENDED, "--- "))
        return line.startswith("--- ") and following.startswith("+++ ")

    def _start(self, depth: int) -> Diff:
        self._open = Diff(depth)
        self._found.append(self._open)
        return self._open

    def _file(self, depth: int) -> None:
        path = fault = old = new = ""
        if self._line(depth).startswith("diff --git "):
            path = _path(self._line(depth).rpartition(" ")[2])
            self._at += 1
        while (line := self._line(depth)).startswith(_EXTENDED):
            fault = next((does for words, does in _NOT_PLAIN.items() if line.startswith(words)), fault)
            if _NO_FILE.match(line.rstrip()):
                fault = "makes a link of"
            self._at += 1
        if line.startswith("--- ") and self._line(depth, 1).startswith("+++ "):
            old, new = line.removeprefix("--- "), self._line(depth, 1).removeprefix("+++ ")
            path = _path(old if new.startswith(_NOWHERE) else new)
            self._at += 2
        if new.startswith(_NOWHERE):
            fault = "deletes"
        diff = self._open
        if diff is None or diff.quoted != depth or any(each.path == path for each in diff.files):
            diff = self._start(depth)
        fault = fault and f"{fault} {path}"
        diff.fault = diff.fault or fault
        diff.files.append(FileDiff(path, is_new=old.startswith(_NOWHERE), fault=fault))
        self._hunks(depth, diff.files[-1])

    def _further_hunks(self, depth: int) -> None:
        """Hunks after a remark. Those of no file may be all that somebody quoted."""
        diff = self._open
        if diff is None or diff.quoted != depth:
            diff = self._start(depth)
            diff.fault = f"has a hunk that belongs to no file (line {self._at + 1})"
            diff.files.append(FileDiff(""))
        self._hunks(depth, diff.files[-1])

    def _hunks(self, depth: int, file: FileDiff) -> None:
        while match := _HUNK.match(self._line(depth)):
            file.hunks.append(self._hunk(match, depth))

    def _hunk(self, header: re.Match[str], depth: int) -> Hunk:
        shown, number = self._line(depth), self._at + 1
        old, new = (int(1 if header[each] is None else header[each]) for each in (2, 4))
        lines: list[Line] = []
        damaged = False
        self._at += 1
        while old or new:
            line = self._content(0, depth)
            if line is None and self._is_remark():
                self._at += 1
                continue
            if line is None or _HUNK.match(line) or line.startswith("diff --git "):
                raise _FaultError(f"has a hunk with fewer lines than it says (line {number})")
            self._at += 1
            if _is_bare(line, lines):
                continue
            kind = line[:1] if line[:1] in ("+", "-") else " "
            damaged |= line[:1] not in ("", "+", "-", " ")
            old -= kind != "+"
            new -= kind != "-"
            if old < 0 or new < 0:
                raise _FaultError(f"has a hunk whose lines are not as many as it says (line {number})")
            lines.append((kind, (line[1:] if line[:1] in ("+", "-", " ") else line) + "\n"))
        if _is_bare(self._line(depth), lines):
            self._at += 1
        return Hunk(shown, int(header[1]), tuple(lines), damaged)

    def _is_remark(self) -> bool:
        return self._at < len(self._lines) and not self._begins_file(self._depth())


def _is_bare(line: str, lines: list[Line]) -> bool:
    """Whether a line says that the one before it is not ended by a newline; that one then is not."""
    if not line.startswith("\\ No newline") or not lines:
        return False
    kind, text = lines[-1]
    lines[-1] = (kind, text.removesuffix("\n"))
    return True


def _path(name: str) -> str:
    """A file's path below the kernel's, without the a/ or b/ and the time that diff puts around it."""
    bare = name.partition("\t")[0].strip()
    return bare if bare.startswith(_ROOTS) else bare.partition("/")[2] or bare
