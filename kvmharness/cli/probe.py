# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness probe: what this host's KVM can do, found by effect."""

import argparse
import json
from typing import Any

from kvmharness import __version__, host
from kvmharness.cli import about, options
from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.contract import Status
from kvmharness.judging import capabilities
from kvmharness.judging.probe import Probe
from kvmharness.kvm import lib
from kvmharness.lab.errors import LabError

SCHEMA = 1
_HAS = {Status.KEPT: True, Status.BROKEN: False, Status.UNDECIDED: None}
_WORDS = {Status.KEPT: "yes", Status.BROKEN: "no", Status.UNDECIDED: "?"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("probe", help="show what this host's KVM can do, found by its effects")
    options.add_on(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play the probe and say what it shows."""
    box = arguments.on
    session = box.play([]) if box else host.play([])
    probe = session.probe
    if session.changed:
        raise LabError(session.changed)
    if arguments.format == "json":
        print(json.dumps(_as_data(probe, arguments), indent=1))
        return NOTHING_FAILED
    print(f"/dev/kvm of {probe.release}{f' on {box.name}' if box else ''}, found by its effects:")
    found = capabilities.findings(probe)
    width = max(map(len, found))
    for name, finding in found.items():
        capability = capabilities.CAPABILITIES[name]
        print(f"  {name:{width}}  {_WORDS[finding.status]:3}  {capability.claim.text}")
        if finding.status is not Status.KEPT:
            words = capability.missing if finding.status is Status.BROKEN else "not known"
            print(f"  {'':{width}}       {words}: {finding.reason}")
    for line in _facts(probe):
        print(f"  {line}")
    return NOTHING_FAILED


def _as_data(probe: Probe, arguments: argparse.Namespace) -> dict[str, Any]:
    """What was found, for programs. `schema` grows when a key changes its meaning."""
    created, clock = probe.event("create-0"), probe.event("clock")
    return {
        "schema": SCHEMA,
        "tool": f"kvmharness {__version__}",
        "about": about.of(arguments).to_json(),
        "release": probe.release,
        "capabilities": {
            name: {
                "has": _HAS[finding.status],
                "claim": capabilities.CAPABILITIES[name].claim.text,
                "reason": finding.reason,
            }
            for name, finding in capabilities.findings(probe).items()
        },
        "tsc_khz": created.value("khz") if created else None,
        "clock_flags": clock.value("clock_flags") if clock else None,
        "host": {**probe.host},
    }


def _facts(probe: Probe) -> list[str]:
    facts = []
    created, clock = probe.event("create-0"), probe.event("clock")
    khz, flags = created and created.value("khz"), clock and clock.value("clock_flags")
    if khz:
        facts.append(f"tsc khz     {khz}")
    if flags is not None:
        stable = "in use" if flags & lib.KVM_CLOCK_TSC_STABLE else "not in use"
        facts.append(f"masterclock {stable} (KVM_GET_CLOCK flags {flags:#x})")
    shown = any(event.debugfs for trace in probe.traces for event in trace.events)
    facts.append(f"debugfs     {'shows' if shown else 'does not show'} the offsets of vCPUs")
    return facts
