# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that the commands of the lab share: machines, and where kernels may come from."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from kvmharness.cli import options
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import Machine


def add_machines(parser: argparse.ArgumentParser, default: str = "amd") -> None:
    """Add --machine, which can be repeated, and --hang-after."""
    parser.add_argument(
        "--machine",
        action="append",
        default=[],
        metavar="NAME",
        help=f"the emulated machine (default: {default}; can be repeated; see `kvmharness list machines`)",
    )
    options.add_hang_after(parser)


def pick_machines(names: Sequence[str], hang_after_s: float, default: str = "amd") -> list[Machine]:
    """The machines of these names, or else the default. UsageError where there is none of a name."""
    machines = options.pick(names or [default], MACHINES, "machine")
    return [replace(machine, hang_after_s=hang_after_s) for machine in machines]


def add_offline(parser: argparse.ArgumentParser) -> None:
    """Add --offline."""
    parser.add_argument(
        "--offline", action="store_true", help="use only what is in the cache; download nothing"
    )
