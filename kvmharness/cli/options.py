# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and outputs that several commands share."""

import argparse
import difflib
import fnmatch
import math
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kvmharness import rule_file
from kvmharness.cli import writing
from kvmharness.cli.errors import BAD_INPUT, UsageError
from kvmharness.judging import saved
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import Expectation
from kvmharness.lab.machines.machine import HANG_AFTER_S
from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy, from_tables
from kvmharness.model.written_rule import RuleError
from kvmharness.recording import lines, vmms
from kvmharness.remote.box import Box
from kvmharness.report import FORMATS, kcidb, lacks
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.scenarios.file import ScenarioFileError, from_text
from kvmharness.trace import TraceError

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; it and its commands take -v."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument(
            "-v",
            dest="verbosity",
            action="count",
            default=argparse.SUPPRESS,  # of the command's parser must not undo the main one's
            help="show progress, and leave nothing out of the report; -vv shows more progress",
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit."""
        writing.complain(f"{self.prog}: {message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """--format and --output."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        type=installed_format,
        help="the report's format (default: text)",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the report to FILE instead of stdout"
    )
    parser.add_argument(
        "--kcidb-build",
        metavar="ORIGIN:ID",
        type=_kcidb_build,
        help="with --format kcidb: the build that was tested, as your CI system reports it itself",
    )


def installed_format(text: str) -> str:
    """A format, which argparse holds against its choices; its libraries have to be there."""
    if missing := lacks(text):
        raise argparse.ArgumentTypeError(missing)
    return text


def _kcidb_build(text: str) -> str:
    if not kcidb.BUILD_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a build: ORIGIN:ID, ORIGIN of a-z, 0-9 and _")
    return text


def add_save_traces(parser: argparse.ArgumentParser) -> None:
    """--save-traces."""
    parser.add_argument(
        "--save-traces",
        metavar="DIR",
        type=Path,
        help="save the traces in DIR; `kvmharness judge` judges them again",
    )


def add_judging(parser: argparse.ArgumentParser) -> None:
    """--expect, --judge and --policy-file."""
    parser.add_argument(
        "--expect",
        default=EXPECTED,
        metavar="POLICY",
        help=f"the policy the kernel should follow (default: {EXPECTED}; see `kvmharness list policies`)",
    )
    parser.add_argument(
        "--judge",
        choices=("policy", "contract"),
        default="policy",
        help="judge by the policy and the contracts (default), or by the contracts alone",
    )
    add_policy_file(parser)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """--strict."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 4 if anything that should have been judged was not (INCONCLUSIVE)",
    )


def add_policy_file(parser: argparse.ArgumentParser) -> None:
    """--policy-file."""
    parser.add_argument(
        "--policy-file",
        metavar="FILE",
        type=Path,
        help="read more policies from a TOML file, or rules as code from a Python file, which is run "
        "(see docs/policies.md)",
    )


def add_on(parser: argparse.ArgumentParser) -> None:
    """--on."""
    parser.add_argument(
        "--on",
        type=_box,
        metavar="ssh://[USER@]HOST[:PORT]",
        help="play on the /dev/kvm of this box, over your own ssh; nothing has to be installed there",
    )


def _box(text: str) -> Box:
    try:
        return Box.named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_hang_after(parser: argparse.ArgumentParser) -> None:
    """--hang-after."""
    parser.add_argument(
        "--hang-after",
        type=_seconds,
        default=HANG_AFTER_S,
        metavar="SECONDS",
        help="give up a machine that makes no progress in so many seconds that the host gives it "
        f"(default: {HANG_AFTER_S:g})",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {_MOST_SECONDS}")
    return seconds


def add_jobs(
    parser: "argparse._ActionsContainer",
    what: str = "run N machines at a time (default: one for each CPU this process may use)",
) -> None:
    """--jobs."""
    parser.add_argument("--jobs", type=_count, metavar="N", help=what)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < _MOST_JOBS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_JOBS - 1}")
    return int(text)


def policies(policy_file: Path | None) -> dict[str, Policy]:
    """The policies by name, those of the file too. UsageError where it cannot be read or makes no sense."""
    if policy_file is None:
        return POLICIES
    try:
        if policy_file.suffix == ".py":
            return {**POLICIES, **rule_file.read(policy_file, POLICIES)}
        data = tomllib.loads(policy_file.read_text(encoding="utf-8"))
        return {**POLICIES, **from_tables(data, POLICIES)}
    except OSError as error:
        raise UsageError(f"cannot read {policy_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{policy_file}: not a UTF-8 text") from None
    except RecursionError:
        raise UsageError(f"{policy_file}: nested too deeply") from None
    except RuleError as error:
        raise UsageError(str(error)) from None
    except ValueError as error:  # not TOML, a number too long to be one, or no policy (PolicyError)
        raise UsageError(f"{policy_file}: {error}") from None


def expectation(arguments: argparse.Namespace) -> Expectation:
    """What the options of add_judging() ask for."""
    known = policies(arguments.policy_file)
    (policy,) = pick([arguments.expect], known, "policy")
    return Expectation(None if arguments.judge == "contract" else policy, known)


_MOST_JOBS = 1000
_MOST_SECONDS = 1_000_000
# How many names a message may suggest.
_MOST_NAMES = 12
_PLURALS = {"policy": "policies"}


def pick(names: Iterable[str], available: Mapping[str, T], what: str) -> list[T]:
    """The things called so, in the order given, each once. A name may be a pattern, as a shell's.

    UsageError for a name that is not there, and a pattern that nothing matches.
    """
    picked: dict[str, None] = {}
    for name in names:
        matching = [name] if name in available else fnmatch.filter(available, name)
        if not matching:
            raise UsageError(_unknown(name, available, what))
        picked.update(dict.fromkeys(matching))
    return [available[name] for name in picked]


def pick_one(name: str, available: Mapping[str, T], what: str) -> T:
    """The thing called so. UsageError where nothing is."""
    if name not in available:
        raise UsageError(_unknown(name, available, what))
    return available[name]


def _unknown(name: str, available: Iterable[str], what: str) -> str:
    """That there is nothing called so, and what else may have been meant."""
    shown = f"`kvmharness list {_PLURALS.get(what, f'{what}s')}` shows all names"
    if set(name) & set("*?["):
        return f"no {what} is called {name!r}: {shown}"
    near = difflib.get_close_matches(name, available) or list(available)
    if len(near) > _MOST_NAMES:
        return f"unknown {what} {name!r}: {shown}"
    return f"unknown {what} {name!r}: did you mean {' or '.join(near)}?"


def add_scenario_file(parser: argparse.ArgumentParser) -> None:
    """--scenario-file and --recording: one list of files, and each says itself which of the two it is."""
    parser.add_argument(
        "--scenario-file",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="read scenarios from FILE, in JSON or TOML; without names, play only these (can be repeated)",
    )
    parser.add_argument(
        "--recording",
        action="append",
        default=argparse.SUPPRESS,
        dest="scenario_file",
        metavar="FILE",
        type=Path,
        help="the same for a recording of a VMM (kvmharness record), or the name of one that comes with us",
    )


def add_what_to_play(parser: argparse.ArgumentParser) -> None:
    """Add --scenario and --scenario-file."""
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME",
        help="play only this scenario (can be repeated; default: all)",
    )
    add_scenario_file(parser)


def known_scenarios(files: Iterable[Path]) -> dict[str, Scenario]:
    """The catalogue's scenarios by name, and those of the files. UsageError where a file makes no sense."""
    known = dict(SCENARIOS)
    for file in files:
        try:
            path = vmms.path_of(file)
            text = path.read_text(encoding="utf-8")
            if lines.is_recording(text):
                found = vmms.scenarios(text, path.stem, known)
            else:
                found = from_text(text, known, toml=file.suffix == ".toml")
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{file}: not a UTF-8 text") from None
        except (ScenarioFileError, lines.RecordingError) as error:
            raise UsageError(f"{file}: {error}") from None
        known |= found
    return known


def pick_scenarios(names: Sequence[str], files: Sequence[Path] = ()) -> list[Scenario]:
    """The scenarios called so, of the files or the catalogue. For no name all of the files, or else all."""
    known = known_scenarios(files)
    of_files = [name for name in known if name not in SCENARIOS]
    return pick(names or of_files or SCENARIOS, known, "scenario")


def read_sessions(path: Path) -> list[Session]:
    """The sessions in a file of saved traces. UsageError when it does not hold that."""
    try:
        return saved.read(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except TraceError as error:
        raise UsageError(f"{path}: {error}") from None
