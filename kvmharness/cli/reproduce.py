# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness reproduce: a scenario as one C file that fails on a kernel with the fault. Needs no KVM."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from kvmharness.cli import options, writing
from kvmharness.cli.errors import NOTHING_FAILED, UsageError
from kvmharness.model.policies import EXPECTED
from kvmharness.reproduce import STYLES, CannotExpressError
from kvmharness.reproduce.oracle import with_claims
from kvmharness.scenarios import SCENARIOS, Scenario


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("reproduce", help="write a scenario as one C file, to keep or to mail")
    parser.add_argument(
        "scenario",
        metavar="SCENARIO|FILE|TRACE",
        help="a scenario's name, a scenario file (such as explore keeps), or a trace of --save-traces",
    )
    parser.add_argument(
        "--scenario",
        dest="name",
        metavar="NAME",
        help="which scenario, of a file that holds several",
    )
    parser.add_argument(
        "--style",
        choices=tuple(STYLES),
        default="plain",
        help="plain: <linux/kvm.h> and libc (default); selftest: as in tools/testing/selftests/kvm",
    )
    parser.add_argument(
        "--expect",
        default=EXPECTED,
        metavar="POLICY",
        help=f"of a scenario without claims: check what this policy predicts (default: {EXPECTED})",
    )
    options.add_policy_file(parser)
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to FILE instead of stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    writing.check_places(arguments.output, None)
    (policy,) = options.pick([arguments.expect], options.policies(arguments.policy_file), "policy")
    scenario = _scenario(arguments)
    try:
        text = STYLES[arguments.style](with_claims(scenario, policy))
    except CannotExpressError as error:
        raise UsageError(f"{scenario.name} cannot be written in C: {error}") from None
    writing.write_text(text, arguments.output, for_people=False)
    return NOTHING_FAILED


def _scenario(arguments: argparse.Namespace) -> Scenario:
    """The one that is asked for, by its name or in a file."""
    path = Path(arguments.scenario)
    if arguments.scenario in SCENARIOS or not path.is_file():
        return _picked(arguments.scenario, SCENARIOS, "scenario")
    found: dict[str, Scenario] = (
        _of_trace(path) if path.suffix == ".jsonl" else options.known_scenarios([path])
    )
    own = {name: each for name, each in found.items() if name not in SCENARIOS or path.suffix == ".jsonl"}
    if arguments.name:
        return _picked(arguments.name, own, f"scenario in {path}:")
    if len(own) > 1:
        raise UsageError(
            f"{path} holds {len(own)} scenarios: choose with --scenario ({', '.join(own)[:200]})"
        )
    return next(iter(own.values()))


def _picked(name: str, available: Mapping[str, Scenario], what: str) -> Scenario:
    (scenario,) = options.pick([name], available, what)
    return scenario


def _of_trace(path: Path) -> dict[str, Scenario]:
    """The scenarios that a saved trace is of: the catalogue's, or else what was played, without claims."""
    found: dict[str, Scenario] = {}
    for session in options.read_sessions(path):
        for trace in session.traces.values():
            known = SCENARIOS.get(trace.scenario)
            is_known = known is not None and known.script[: len(trace.script)] == trace.script
            found[trace.scenario] = (
                known
                if known is not None and is_known
                else Scenario(
                    name=trace.scenario, contract="What was played.", script=trace.script, claims=()
                )
            )
    return found
