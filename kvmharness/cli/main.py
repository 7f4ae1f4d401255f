# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness: the command."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from kvmharness import __version__
from kvmharness.cli import judge, lab, list, probe, run
from kvmharness.cli.errors import BAD_INPUT, INTERRUPTED, UsageError
from kvmharness.cli.options import Parser
from kvmharness.kvm import KvmError, KvmUnavailableError
from kvmharness.lab.errors import LabError

_STATUSES = """\
exit status:
  0  nothing failed, and something was judged
  1  a scenario failed
  2  wrong usage or bad input, with one line on stderr
  3  a machine was lost
  4  nothing could be judged
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    # A reader that has seen enough (`| head`) ends us like any other filter.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except (UsageError, LabError, KvmUnavailableError, KvmError) as error:
        print(f"kvmharness: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("kvmharness: interrupted", file=sys.stderr)
        # Not by way of the threads that wait for emulators: those die with this process.
        os._exit(INTERRUPTED)
    return status


def _parser() -> Parser:
    parser = Parser(
        prog="kvmharness",
        description="Does a Linux kernel's KVM synchronize guest TSCs as it should?",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kvmharness {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (probe, run, lab, judge, list):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
