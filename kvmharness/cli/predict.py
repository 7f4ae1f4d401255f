# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness predict: what each policy does in a scenario, on a simulated clock. Needs no KVM."""

import argparse
from pathlib import Path

from kvmharness.cli import options, writing
from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.model.predict import predict
from kvmharness.report import prediction


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("predict", help="show what each policy does in a scenario; no KVM needed")
    parser.add_argument("scenario", nargs="*", help="the name of a scenario (default: all)")
    options.add_scenario_file(parser)
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="only this policy (can be repeated; default: all that honour writes)",
    )
    options.add_policy_file(parser)
    parser.add_argument(
        "--format",
        choices=("text", "json", "html"),
        default="text",
        type=options.installed_format,
        help="the output's format (default: text)",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the output to FILE instead of stdout"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play each scenario under each policy, and show where the policies first differ."""
    writing.check_places(arguments.output, None)
    scenarios = options.pick_scenarios(arguments.scenario, arguments.scenario_file)
    known = options.policies(arguments.policy_file)
    # A policy that ignores writes differs from all others at once, which would hide where those differ.
    usual = [name for name, policy in known.items() if policy.honours_writes]
    policies = options.pick(arguments.policy or usual, known, "policy")
    found = [(each, predict(each.name, each.script, policies, each.host)) for each in scenarios]
    for scenario, predictions in found:
        told = {name for prediction in predictions for name in prediction.policies}
        if left := [policy.name for policy in policies if policy.name not in told]:
            writing.complain(
                f"kvmharness: the model does not predict all of {scenario.name} under {', '.join(left)}"
            )
    found = [each for each in found if each[1]]
    if arguments.format == "html":
        from kvmharness.report.html import page  # noqa: PLC0415 - its libraries are not everywhere

        text = page.render_predictions(found)
    elif arguments.format == "json":
        text = prediction.as_json(found)
    else:
        text = "\n".join(prediction.as_text(*each) for each in found)
    writing.write_text(text, arguments.output, for_people=False)
    return NOTHING_FAILED
