# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be done to the lines of a good trace file, as data."""

import copy
import errno
from collections.abc import Callable, Iterator
from typing import Any

from kvmharness import script
from kvmharness.judging.probe import PROBES
from kvmharness.scenarios import SCENARIOS
from tests.random_traces import LABELS, Chance, Lines, any_operation, good_file

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**48, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 1, 2**63, -(2**63)),
    *(2**64 - 1, 2**64, 10**400, 1e309, float("nan"), 0.5, -0.0, "", "7", None, True, [], {}, "@deep@"),
)
KHZ = (0, 1, 999, 2_000_000, 2**31, 2**32 - 1, 2**32, 2**64 - 1)


def steps(lines: Lines) -> Lines:
    return [line for line in lines if isinstance(line.get("op"), dict)]


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Where the numbers of a line are, as containers and keys."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict | list):
            yield from places(value)
        elif type(value) is int:
            yield data, key


def replace_a_number(lines: Lines, chance: Chance) -> None:
    found = list(places(chance.choice(lines)))
    if found:
        data, key = chance.choice(found)
        data[key] = chance.choice(NUMBERS)


def nudge_a_number(lines: Lines, chance: Chance) -> None:
    found = list(places(chance.choice(lines)))
    if found:
        data, key = chance.choice(found)
        data[key] += chance.choice((-1, 1)) * chance.choice((1, data[key], chance.randrange(10**10)))


def replace_anything(lines: Lines, chance: Chance) -> None:
    line: Any = chance.choice(lines)
    while isinstance(line, dict) and line:
        key = chance.choice(sorted(line))
        if not isinstance(line[key], dict) or chance.randrange(2):
            line[key] = chance.choice(NUMBERS)
            return
        line = line[key]


def remove_a_key(lines: Lines, chance: Chance) -> None:
    line: Any = chance.choice(lines)
    line = line["op"] if isinstance(line.get("op"), dict) and chance.randrange(2) else line
    if line:
        del line[chance.choice(sorted(line))]


def rename_a_key(lines: Lines, chance: Chance) -> None:
    line: Any = chance.choice(lines)
    line = line["op"] if isinstance(line.get("op"), dict) and chance.randrange(2) else line
    if line:
        known = ("op", "tsc", "ns", "values", "errno", "end", "trace", "vcpu", "offset", "plus", "", "label")
        line[chance.choice(known)] = line.pop(chance.choice(sorted(line)))


def substitute_an_operation(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    operation = any_operation(chance, 16)
    line["op"] = script.to_json(operation)
    if chance.randrange(4):
        # As many values as it may have, so that the step is read and judged.
        line["values"] = [
            chance.choice((chance.randrange(2**64), 2_000_000, 0)) for _ in range(count(operation, chance))
        ]


def count(operation: script.Operation, chance: Chance) -> int:
    if isinstance(operation, script.SetMsrs):
        return len(operation.msrs)
    if isinstance(operation, script.GetMsrs):
        return len(operation.indices)
    if isinstance(operation, script.Run):
        return chance.choice((0, 1, 255))
    if isinstance(operation, script.GuestWrite):
        return chance.randint(1, 3)
    return {"get_clock": 2, "move_thread": 2, "sleep": 0}.get(operation.name, 1)


def break_a_bracket(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    clock = chance.choice(("tsc", "ns"))
    bracket = line.get(clock)
    if not isinstance(bracket, list) or len(bracket) != 2 or not all(type(each) is int for each in bracket):
        return
    low, high = bracket
    huge = chance.choice((10**6, 10**9, 2**40, 2**48, 2**62 - 1, 2**62, 2**63))
    line[clock] = chance.choice(
        ([low, low + huge], [low - huge, high], [high, low], [low + huge, high + huge], [0, 0], [low, low])
    )


def widen_all_brackets(lines: Lines, chance: Chance) -> None:
    """So that they straddle, and overlap or not."""
    tsc, ns = (chance.choice((10**5, 10**8, 10**10, 2**45)) for _ in range(2))
    apart = chance.randrange(2)
    shift = [0, 0]
    for line in steps(lines):
        for place, (clock, width) in enumerate((("tsc", tsc), ("ns", ns))):
            bracket = line.get(clock)
            if isinstance(bracket, list) and len(bracket) == 2 and all(type(each) is int for each in bracket):
                line[clock] = [bracket[0] + shift[place], bracket[1] + shift[place] + width]
                shift[place] += width * apart


def change_khz(lines: Lines, chance: Chance) -> None:
    """The rates that are read, of the machine's TSC too; sometimes all alike."""
    alike, chosen = chance.randrange(2), chance.choice(KHZ)
    for line in steps(lines):
        reads = "khz" in str(line["op"].get("op")) or line["op"].get("op") == "create_vcpu"
        if reads and (alike or not chance.randrange(4)):
            line["values"] = [chosen if alike else chance.choice(KHZ)]
            line.pop("errno", None)


def change_a_vcpu(lines: Lines, chance: Chance) -> None:
    found = [line["op"] for line in steps(lines) if "vcpu" in line["op"]]
    if found:
        chance.choice(found)["vcpu"] = chance.choice((*range(18), -1, 2**64))


def change_the_values(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    values = list(line.get("values") or []) if isinstance(line.get("values", []), list) else []
    if values and chance.randrange(2):
        values.pop(chance.randrange(len(values)))
    else:
        values += [chance.choice((0, 1, 2**64 - 1, chance.randrange(2**64)))] * chance.choice(
            (1, 2, 253, 5_000)
        )
    line["values"] = values


def change_a_label(lines: Lines, chance: Chance) -> None:
    if steps(lines):
        operation = chance.choice(steps(lines))["op"]
        operation["label"] = chance.choice((*LABELS, "", "x" * 101, "\ud800", "\n", 7))


def swap_labels(lines: Lines, chance: Chance) -> None:
    """A claim then looks at a step of another kind than it expects."""
    found = [line["op"] for line in steps(lines) if "label" in line["op"]]
    if found:
        one, other = chance.choice(found), chance.choice(found)
        one["label"], other["label"] = other["label"], one["label"]


def change_an_errno(lines: Lines, chance: Chance) -> None:
    if not steps(lines):
        return
    line = chance.choice(steps(lines))
    line["errno"] = chance.choice((*errno.errorcode.values(), "EINVAL", "ENXIO", "", "EEK", 22, None, ["E"]))
    if chance.randrange(2):
        line["values"] = []


def change_a_header(lines: Lines, chance: Chance) -> None:
    found = [line for line in lines if "scenario" in line]
    if found:
        line = chance.choice(found)
        key, value = chance.choice(
            (
                (
                    "scenario",
                    chance.choice((*SCENARIOS, *PROBES, "", "no-such", "a" * 201, "'\"", 7, None)),
                ),
                ("release", chance.choice(("", "6.1", "\x1b[31m", "a\nb", "\ud800", "a" * 201, [], 1.5))),
                ("trace", chance.choice((0, 1.0, True, 2, "1", None, 2**64))),
            )
        )
        line[key] = value


def change_the_exits(lines: Lines, chance: Chance) -> None:
    """Of a step that has some, or has none to have."""
    if steps(lines):
        reason: Any = chance.choice(
            (
                "IO",
                "INTR",
                "SHUTDOWN",
                "HLT",
                "FAIL_ENTRY",
                "INTERNAL_ERROR",
                "exit-37",
                "exit-",
                "io",
                "",
                None,
            )
        )
        detail = chance.choice(([], [], [7], [2**64], [-1], ["7"], [1, 2]))
        line = chance.choice([each for each in steps(lines) if each.get("exits")] or steps(lines))
        line["exits"] = [[reason, *detail]] * chance.choice((1, 1, 1, 0, 2))


def change_the_debugfs_readings(lines: Lines, chance: Chance) -> None:
    if steps(lines):
        reading = [chance.choice(NUMBERS), 5, 7, 9][: chance.choice((1, 1, 2, 0, 3))]
        chance.choice(steps(lines))["debugfs"] = [reading] * chance.choice((1, 1, 0, 2))


def change_the_place(lines: Lines, chance: Chance) -> None:
    """Of one trace, or of all."""
    headers = [line for line in lines if isinstance(line.get("place"), dict)]
    if not headers:
        return
    key = chance.choice(("kernel", "machine", "session", "may_protect_tscs", "counts_instructions", "odd"))
    value: Any = chance.choice(("amd", "/dev/kvm", "\x1b[31m", "x" * 300, "", True, False, 1, None, []))
    for header in headers if chance.randrange(2) else [chance.choice(headers)]:
        header["place"][key] = value


def write_an_older_schema(lines: Lines, chance: Chance) -> None:
    """As schema 1, or half so."""
    for line in lines:
        if "trace" in line:
            line["trace"] = 1
            line.pop("place", None)
        if chance.randrange(20):
            line.pop("exits", None)
        if "debugfs" in line:
            line["windows"] = line.pop("debugfs")


def delete_lines(lines: Lines, chance: Chance) -> None:
    begin = chance.randrange(len(lines))
    del lines[begin : begin + chance.choice((1, 1, 1, 5, 50))]


def duplicate_lines(lines: Lines, chance: Chance) -> None:
    begin = chance.randrange(len(lines))
    some = copy.deepcopy(lines[begin : begin + chance.choice((1, 1, 5, 50))])
    lines[begin:begin] = some * chance.choice((1, 1, 1, 20))


def swap_lines(lines: Lines, chance: Chance) -> None:
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def insert_steps(lines: Lines, chance: Chance) -> None:
    """Any operation, right behind another one's time, with any outcome."""
    for _ in range(chance.choice((1, 5, 40))):
        place = chance.randrange(len(lines))
        before = lines[place]
        operation = any_operation(chance, 16)
        step: dict[str, Any] = {"op": script.to_json(operation)}
        for clock in ("tsc", "ns"):
            bracket = before.get(clock)
            end = bracket[-1] if isinstance(bracket, list) and bracket and type(bracket[-1]) is int else 10**6
            step[clock] = [end, end]
        values = [
            chance.choice((0, 2_000_000, chance.randrange(2**64))) for _ in range(count(operation, chance))
        ]
        if values:
            step["values"] = values
        if not chance.randrange(4):
            step["errno"] = chance.choice(("EINVAL", "ENXIO", "EEXIST", "EIO"))
        lines.insert(place + 1, step)


def add_another_file(lines: Lines, chance: Chance) -> None:
    more = good_file(chance)
    marks = [place for place, line in enumerate(more) if "end" in line]
    lines += more if chance.randrange(2) else more[marks[0] + 1 :] * chance.choice((1, 1, 10))


def repair_the_end_marks(lines: Lines) -> None:
    """So that a trace of another length is read, and judged."""
    length = 0
    for line in lines:
        if "trace" in line:
            length = 0
        elif "end" in line:
            line["end"] = length
        else:
            length += 1


# After most of these a file is a trace still; after the others it seldom is.
GENTLE: tuple[Callable[[Lines, Chance], None], ...] = (
    nudge_a_number,
    substitute_an_operation,
    break_a_bracket,
    widen_all_brackets,
    change_khz,
    change_a_vcpu,
    swap_labels,
    change_an_errno,
    change_the_exits,
    change_the_debugfs_readings,
    change_the_place,
    write_an_older_schema,
    delete_lines,
    duplicate_lines,
    insert_steps,
    add_another_file,
)
ROUGH: tuple[Callable[[Lines, Chance], None], ...] = (
    replace_a_number,
    replace_anything,
    remove_a_key,
    rename_a_key,
    change_the_values,
    change_a_label,
    change_a_header,
    swap_lines,
)
