# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness predict: what each policy would do of a scenario, on a simulated clock. Needs no KVM."""

import argparse
import sys

from kvmharness.cli import options
from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.model.predict import predict
from kvmharness.report import prediction


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("predict", help="what each policy would do of a scenario; no KVM needed")
    parser.add_argument("scenario", nargs="*", help="by name (default: all)")
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="this one (can be repeated; default: all that honour writes)",
    )
    options.add_policy_file(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play each scenario under each policy, and show where they part."""
    scenarios = options.pick_scenarios(arguments.scenario)
    known = options.policies(arguments.policy_file)
    # A TSC that ignores writes parts from all others at once, and would hide where those part.
    usual = [name for name, policy in known.items() if policy.honours_writes]
    policies = options.pick(arguments.policy or usual, known, "policy")
    found = [(each, predict(each.name, each.script, policies, each.host)) for each in scenarios]
    if arguments.format == "json":
        sys.stdout.write(prediction.as_json(found))
    else:
        sys.stdout.write("\n".join(prediction.as_text(*each) for each in found))
    return NOTHING_FAILED
