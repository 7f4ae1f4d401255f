# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness probe: what this host's KVM can do, found by effect."""

import argparse
import os

from kvmharness import host
from kvmharness.cli.errors import NOTHING_FAILED
from kvmharness.contract import State
from kvmharness.judging import capabilities
from kvmharness.kvm import lib
from kvmharness.script import CreateVcpu, GetClock
from kvmharness.trace import Trace

_WORDS = {State.KEPT: "yes", State.BROKEN: "no", State.UNDECIDED: "?"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("probe", help="show what this host's KVM can do, found by its effects")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play the probe and say what it shows."""
    probe = host.play([]).probe
    print(f"/dev/kvm of {os.uname().release}, found by its effects:")
    found = capabilities.findings(probe)
    width = max(map(len, found))
    for name, finding in found.items():
        capability = capabilities.CAPABILITIES[name]
        print(f"  {name:{width}}  {_WORDS[finding.state]:3}  {capability.claim.text}")
        if finding.state is not State.KEPT:
            words = capability.missing if finding.state is State.BROKEN else "not known"
            print(f"  {'':{width}}       {words}: {finding.reason}")
    for line in _facts(probe):
        print(f"  {line}")
    return NOTHING_FAILED


def _facts(probe: Trace) -> list[str]:
    facts = []
    for event in probe.events:
        if isinstance(event.operation, CreateVcpu) and event.operation.vcpu == 0 and event.values:
            facts.append(f"tsc khz     {event.values[0]}")
        if isinstance(event.operation, GetClock) and len(event.values) == 2:
            stable = "in use" if event.values[1] & lib.KVM_CLOCK_TSC_STABLE else "not in use"
            facts.append(f"masterclock {stable} (KVM_GET_CLOCK flags {event.values[1]:#x})")
    shown = any(event.windows for event in probe.events)
    facts.append(f"debugfs     {'shows' if shown else 'does not show'} the offsets of vCPUs")
    return facts
