# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness recording: what a recording holds, for people; or as a scenario file."""

import argparse
import sys
from pathlib import Path

from kvmharness.cli import writing
from kvmharness.cli.errors import NOTHING_FAILED, UsageError
from kvmharness.recording import table, vmms
from kvmharness.recording.lines import RecordingError, from_text
from kvmharness.scenarios.file import to_text


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("recording", help="show what a recording of a VMM holds")
    parser.add_argument("file", type=Path, help="the recording, or the name of one that comes with us")
    parser.add_argument(
        "--scenario",
        action="store_true",
        help="write it as a scenario file instead (for --scenario-file, to be edited)",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to FILE instead of stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    writing.check_places(arguments.output, None)
    try:
        path = vmms.path_of(arguments.file)
        text = path.read_text(encoding="utf-8")
        found = vmms.scenarios(text, path.stem)
        shown = to_text([*found.values()]) if arguments.scenario else table.text(from_text(text), found)
    except OSError as error:
        raise UsageError(f"cannot read {arguments.file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{arguments.file}: not a UTF-8 text") from None
    except RecordingError as error:
        raise UsageError(f"{arguments.file}: {error}") from None
    if arguments.output:
        writing.write_text(shown, arguments.output, for_people=False)
    else:
        sys.stdout.write(shown)
    return NOTHING_FAILED
