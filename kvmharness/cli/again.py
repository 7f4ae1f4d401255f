# SPDX-License-Identifier: GPL-2.0-or-later
"""The command that does a validation again."""

import argparse
import os
from collections.abc import Sequence

from kvmharness.cli.patch_files import PatchFile
from kvmharness.lab.patches import kept


def command(arguments: argparse.Namespace, files: Sequence[PatchFile]) -> list[str]:
    """What was asked, as words that mean the same in any folder; the patches are kept for that."""
    own = "/" in arguments.kernel
    words = ["kvmharness", "lab", "validate", os.path.abspath(arguments.kernel) if own else arguments.kernel]
    words += ["--each"] if arguments.each and not arguments.range else []
    for each in files:
        words += ["--patch", kept.keep(each.data)]
        words += [word for pick in each.picks for word in ("--pick", str(pick))]
    if arguments.range:
        words += ["--range", arguments.range, "--tree", os.path.abspath(arguments.tree or ".")]
    words += ["--allow-build-scripts"] if arguments.allow_build_scripts else []
    repeated = ("machine", "param", "scenario", "scenario_file")
    for option, names in ((f"--{each.replace('_', '-')}", getattr(arguments, each)) for each in repeated):
        words += [word for name in names for word in (option, str(name))]
    words += ["--expect", arguments.expect]
    if arguments.judge != "policy":
        words += ["--judge", arguments.judge]
    if arguments.policy_file:
        words += ["--policy-file", str(arguments.policy_file.absolute())]
    return words
