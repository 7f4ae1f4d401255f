# SPDX-License-Identifier: GPL-2.0-or-later
"""Hunks applied to a file's lines, where these are what the hunk says, but for white space. Pure.

Mail archives take tabs and leading blanks away, so white space says nothing about where a hunk belongs. All
else has to be there, and only once: a line number never decides, and nothing is near enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kvmharness.lab.patches.diffs import FileDiff, Hunk

# How many places a refusal names.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Applied:
    """A file as the hunks leave it, and the line, from 1, at which each begins in what it was before."""

    text: str
    at: tuple[int, ...]


class PatchRefusedError(Exception):
    """Hunks do not apply. `details` are lines for the user: each hunk, and the places that it might mean."""

    def __init__(self, summary: str, details: Sequence[str]) -> None:
        super().__init__(summary)
        self.details = tuple(details)


def apply(diff: FileDiff, text: str | None) -> Applied:
    """The file that a diff makes of `text`, which is None where there is no such file yet.

    Kept lines stay as the file has them, added ones are taken as they are: what an archive did to their white
    space a compiler does not see. PatchRefusedError names every hunk that does not apply.
    """
    if text is None or diff.is_new:
        return _made(diff, text)
    lines = _split(text)
    bare = [_bare(line) for line in lines]
    troubles: list[str] = []
    places = []
    for number, hunk in enumerate(diff.hunks, 1):
        found = _places(hunk.before, bare)
        if len(found) == 1:
            places.append(found[0])
        else:
            troubles += [f"hunk {number} of {diff.path} {_trouble(hunk, found, diff.path, bare, lines)}"]
            troubles += _shown(hunk)
    ends = [place + len(hunk.before) for place, hunk in zip(places, diff.hunks, strict=False)]
    if not troubles and any(end > after for end, (_, after) in zip(ends, pairwise(places), strict=False)):
        troubles.append(f"the hunks of {diff.path} fit, but not in their order")
    if troubles:
        raise PatchRefusedError(troubles[0].partition(":")[0], troubles)
    for place, hunk in reversed(list(zip(places, diff.hunks, strict=True))):
        lines[place : place + len(hunk.before)] = _changed(hunk, lines[place : place + len(hunk.before)])
    return Applied("".join(lines), tuple(place + 1 for place in places))


def _made(diff: FileDiff, text: str | None) -> Applied:
    if text is not None:
        raise PatchRefusedError(f"{diff.path} is to be made, but is already there", ())
    if not diff.is_new or any(hunk.before for hunk in diff.hunks):
        raise PatchRefusedError(f"{diff.path} is not in the kernel's source", ())
    return Applied("".join(line for hunk in diff.hunks for line in hunk.after), (1,) * len(diff.hunks))


def _changed(hunk: Hunk, there: Sequence[str]) -> list[str]:
    """What the hunk makes of these lines, which are what it wants to be there but for white space."""
    kept = iter(there)
    result = []
    for kind, text in hunk.lines:
        line = text if kind == "+" else next(kept)
        if kind != "-":
            result.append(line)
    return result


def _places(wanted: Sequence[str], bare: Sequence[str]) -> list[int]:
    """Where these lines are in the file, but for white space; nowhere, if there are none."""
    sought = [_bare(line) for line in wanted]
    if not any(sought):
        return []  # blank lines say nothing about a place
    size = len(sought)
    return [
        at
        for at in range(len(bare) - size + 1)
        if bare[at] == sought[0] and list(bare[at : at + size]) == sought
    ]


def _trouble(hunk: Hunk, found: Sequence[int], path: str, bare: Sequence[str], lines: Sequence[str]) -> str:
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"fits in several places: {', '.join(f'{path}:{at + 1}' for at in found[:_SHOWN])}{more}"
    if not any(_bare(line) for line in hunk.before):
        return "has no line that says where it belongs:"
    there = _places(hunk.after, bare)
    if there and hunk.after != hunk.before:
        return f"is already there: {path}:{there[0] + 1}"
    nearest = _nearest(hunk, bare)
    if nearest is None:
        return "fits nowhere: none of its lines is there"
    at, same = nearest
    differing = next(
        each for each, line in enumerate(hunk.before) if bare[at + each : at + each + 1] != [_bare(line)]
    )
    seen = lines[at + differing].strip() if at + differing < len(lines) else "the end of the file"
    return (
        f"fits nowhere: at {path}:{at + 1} {same} of its {len(hunk.before)} lines are there, but line "
        f"{at + differing + 1} is {seen!r} and not {hunk.before[differing].strip()!r}"
    )


def _nearest(hunk: Hunk, bare: Sequence[str]) -> tuple[int, int] | None:
    """The place where most lines that are not blank agree, and how many do; of several the one that is
    nearest to where the hunk says it is. It is for the eye alone."""
    sought = [_bare(line) for line in hunk.before]
    counts: dict[int, int] = {}
    by_line: dict[str, list[int]] = {}
    for number, line in enumerate(bare):
        by_line.setdefault(line, []).append(number)
    for offset, line in enumerate(sought):
        for number in by_line.get(line, ()) if line else ():
            if number >= offset:
                counts[number - offset] = counts.get(number - offset, 0) + 1
    if not counts:
        return None
    at = max(counts, key=lambda place: (counts[place], -abs(place + 1 - hunk.first)))
    return at, sum(bare[at + offset : at + offset + 1] == [line] for offset, line in enumerate(sought))


def _shown(hunk: Hunk) -> list[str]:
    return [f"    {hunk.header}", *(f"    {kind}{text.rstrip()}" for kind, text in hunk.lines)]


def _split(text: str) -> list[str]:
    """The lines, each with the newline that ends it; nothing else ends one."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _bare(line: str) -> str:
    return "".join(line.split())
