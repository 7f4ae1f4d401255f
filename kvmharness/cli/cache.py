# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness cache: what is kept of earlier runs, and how much of it."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.lab import cache, kept
from kvmharness.lab.kept import Kept
from kvmharness.printable import printable

# Of each kind so many are shown without -v.
_MOST = 8
_DAY_S = 24 * 3600
_AGES = ((_DAY_S, "d"), (3600, "h"), (60, "min"))


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("cache", help="show what is kept of earlier runs, remove it, limit it")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(metavar="COMMAND")
    clear = actions.add_parser(
        "clear", help="remove what is kept of these kinds; everything is fetched again"
    )
    clear.add_argument("kind", nargs="+", choices=(*kept.KINDS, "all"), metavar="KIND", help="or all")
    clear.add_argument(
        "--unused-for", type=_days, default=0, metavar="DAYS", help="only what was not used for so long"
    )
    clear.set_defaults(run=_clear)
    limit = actions.add_parser(
        "limit", help="keep the cache below a size: what was used least recently goes first"
    )
    limit.add_argument("size", type=kept.parse_size, metavar="SIZE", help="such as 500M or 5G (10^9 bytes)")
    limit.set_defaults(run=_limit)


def run(arguments: argparse.Namespace) -> int:
    """Show what there is, by kind."""
    there = kept.everything()
    if arguments.format == "json":
        print(json.dumps(_data(there), indent=2))
    else:
        most = None if getattr(arguments, "verbosity", 0) else _MOST
        print("\n".join(_lines(there, most)))
    return NOTHING_FAILED


def _clear(arguments: argparse.Namespace) -> int:
    kinds = kept.KINDS if "all" in arguments.kind else arguments.kind
    return _removed(lambda: kept.clear(kinds, arguments.unused_for * _DAY_S))


def _limit(arguments: argparse.Namespace) -> int:
    kept.set_limit(arguments.size)
    status = _removed(kept.trim)
    total = sum(each.size for each in kept.everything())
    if total > arguments.size:
        print(f"{kept.size_text(total)} stay for now: what was used within six hours may be in use")
    return status


def _removed(remove: Callable[[], list[Kept]]) -> int:
    gone = remove()
    size = kept.size_text(sum(each.size for each in gone))
    print(f"removed {len(gone)} of the cache, {size}" if gone else "nothing to remove")
    return NOTHING_FAILED


def _lines(there: Sequence[Kept], most: int | None) -> list[str]:
    """By kind, of each at most so many."""
    total = kept.size_text(sum(each.size for each in there))
    lines = [f"{cache.root()}: {total}, kept below {kept.size_text(kept.limit())}"]
    for kind, group in _by_kind(there):
        size = kept.size_text(sum(each.size for each in group))
        lines += ["", f"{kind}: {kept.KINDS[kind]}, {size}"]
        lines += map(_line, group[:most])
        if more := group[len(group[:most]) :]:
            size = kept.size_text(sum(each.size for each in more))
            lines.append(f"  {size:>8}  in {len(more)} more (-v)")
    return lines


def _line(each: Kept) -> str:
    return f"  {kept.size_text(each.size):>8}  {_age(each):>7}  {printable(each.name)}"


def _by_kind(there: Sequence[Kept]) -> list[tuple[str, list[Kept]]]:
    """The things of each kind, what was used last first."""
    ordered = sorted(there, key=lambda each: (each.kind, -each.used))
    return [(kind, list(group)) for kind, group in groupby(ordered, key=lambda each: each.kind)]


def _age(each: Kept) -> str:
    """How long ago it was used."""
    seconds = max(0, time.time() - each.used)
    for length, unit in _AGES:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def _data(there: Sequence[Kept]) -> dict[str, object]:
    return {
        "schema": 1,
        "place": str(cache.root()),
        "limit": kept.limit(),
        "kept": [
            {"kind": each.kind, "name": each.name, "bytes": each.size, "used": int(each.used)}
            for each in there
        ],
    }


def _days(text: str) -> float:
    days = float(text)
    if not days >= 0:
        raise ValueError(text)
    return days
