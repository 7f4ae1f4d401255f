# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that commands take, for programs: what `kvmharness list` shows, as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvmharness import __version__
from kvmharness.lab.machines.machine import Machine
from kvmharness.model.policy import Policy
from kvmharness.printable import printable
from kvmharness.report import catalogue
from kvmharness.report.about import About
from kvmharness.report.steps import in_short
from kvmharness.scenarios import SUBJECTS, Scenario

SCHEMA = 1


def render(what: str, rows: Sequence[Mapping[str, Any]], about: About) -> str:
    """One JSON object with the rows under `what`. `schema` grows when a key changes its meaning."""
    data = {
        "schema": SCHEMA,
        "tool": f"kvmharness {__version__}",
        "about": about.to_json(),
        what: [*rows],
    }
    return json.dumps(data, indent=1) + "\n"


def scenarios(listed: Iterable[Scenario]) -> list[dict[str, Any]]:
    """A row for each scenario. One of a file has no subject."""
    subjects = {
        each.name: catalogue.heading(subject)[0] for subject in SUBJECTS for each in subject.SCENARIOS
    }
    return [
        {
            "name": each.name,
            "subject": subjects.get(each.name),
            "contract": each.contract,
            "source": each.source,
            "consequence": each.consequence,
            "steps": [*in_short(each.script)],
            "needs": [*each.needs],
            "lacks": [*each.lacks],
            "judged_on": catalogue.judged_on(each),
        }
        for each in listed
    ]


def policies(listed: Iterable[Policy]) -> list[dict[str, Any]]:
    """A row for each policy."""
    return [{"name": each.name, "summary": each.summary, "source": each.source} for each in listed]


def machines(listed: Iterable[Machine]) -> list[dict[str, Any]]:
    """A row for each machine of the lab."""
    return [
        {
            "name": each.name,
            "summary": each.summary,
            "packages": [*each.emulator.packages],
            "counts_instructions": each.counts_instructions,
        }
        for each in listed
    ]


def kernels(releases: Mapping[str, str], places: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """A row for each kernel: its release, and where it is to be had, by its name."""
    return [
        {"name": printable(name), "release": printable(release), "places": [*dict.fromkeys(places[name])]}
        for name, release in releases.items()
    ]
