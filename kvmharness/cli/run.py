# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness run: the scenarios on this host's own /dev/kvm."""

import argparse
import os

from kvmharness import host
from kvmharness.cli import options, writing
from kvmharness.judging import saved
from kvmharness.judging.bisection import ignored_writes
from kvmharness.judging.session import settle
from kvmharness.report import KernelReport, Report


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="play scenarios on this host's /dev/kvm, judge them")
    parser.add_argument("name", nargs="*", metavar="SCENARIO", help="play only this scenario (default: all)")
    options.add_what_to_play(parser)
    options.add_on(parser)
    options.add_report_options(parser)
    options.add_judging(parser)
    options.add_strict(parser)
    options.add_save_traces(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play, judge, report."""
    scenarios = options.pick_scenarios([*arguments.name, *arguments.scenario], arguments.scenario_file)
    writing.check_places(arguments.output, arguments.save_traces)
    expectation = options.expectation(arguments)
    box = arguments.on
    outcome = settle(scenarios, box.play if box else host.play, expectation, confirm=True)
    place = box.name if box else "host", saved.HOSTS_OWN
    writing.save_sessions(outcome.sessions, outcome.attempts, *place, arguments.save_traces)
    probes = [session.probe for session in outcome.sessions.values()]
    release = next((each.release for each in probes if each.release), "" if box else os.uname().release)
    report = KernelReport(
        *(
            *place,
            release,
            outcome.results,
            expectation.name,
            outcome.identity,
        ),
        notes=outcome.notes,
        host=outcome.host,
        sessions=outcome.sessions,
        ignores_writes=next(filter(None, (ignored_writes(each, expectation) for each in probes)), ""),
    )
    whole = Report((report,), strict=arguments.strict)
    writing.write_report(whole, arguments)
    return whole.exit_status
