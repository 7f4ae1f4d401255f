# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness rules: which rule would break the fewest contracts. Needs no KVM."""

import argparse
from pathlib import Path

from kvmharness.cli import options, writing
from kvmharness.cli.errors import NOTHING_FAILED, UsageError
from kvmharness.model.policy import PolicyError
from kvmharness.report import rules as report
from kvmharness.survey.keys import space
from kvmharness.survey.workers import all_rules, asked_about

_EPILOG = """\
A rule beats another if it breaks some of the contracts that the other breaks, and none besides. Without
--key those keys are varied that decide which writes snap; a key that is not varied is as in mainline-6.7.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rules", help="show which of all rules break the fewest contracts; no KVM needed", epilog=_EPILOG
    )
    parser.add_argument("scenario", nargs="*", help="the name of a scenario (default: all)")
    options.add_scenario_file(parser)
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY[=VALUE,...]",
        help="vary this key of a policy, between these values (can be repeated; see docs/policies.md)",
    )
    options.add_policy_file(parser)
    options.add_jobs(parser, "play on N CPUs (default: all that this process may use)")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="the output's format (default: text)"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write the table to FILE instead of stdout"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play each scenario under every rule, and show which rules no other beats."""
    scenarios = asked_about(options.pick_scenarios(arguments.scenario, arguments.scenario_file))
    if not scenarios:
        raise UsageError("these scenarios are about a KVM that ignores writes, which has no rule for them")
    known = [each for each in options.policies(arguments.policy_file).values() if each.honours_writes]
    writing.check_places(arguments.output, None)
    try:
        varied = space(arguments.key)
    except PolicyError as error:
        raise UsageError(f"--key: {error}") from None
    found = all_rules(varied, scenarios, known, arguments.jobs)
    verbose = getattr(arguments, "verbosity", 0) > 0
    text = report.as_json(found) if arguments.format == "json" else report.as_text(found, verbose=verbose)
    writing.write_text(text, arguments.output, for_people=False)
    return NOTHING_FAILED
