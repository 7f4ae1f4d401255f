# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/findings.md names scenarios that there are, and a column for each kernel."""

import re
from pathlib import Path

from kvmharness.scenarios import SCENARIOS

PAGE = (Path(__file__).parent.parent / "docs" / "findings.md").read_text()
# Rows that have a scenario in their second cell.
ROWS = [
    cells
    for line in PAGE.splitlines()
    if line.startswith("| ")
    and (cells := [each.strip() for each in line.strip("| ").split(" | ")])[1] in SCENARIOS
]


def test_each_finding_has_a_scenario_of_the_catalogue() -> None:
    named = re.findall(r"^\| .* \| ([a-z0-9]+(?:-[a-z0-9]+)+) \| (?:yes|no|-|\d)", PAGE, re.MULTILINE)
    assert len(named) == len(set(named)) == len(ROWS) > 25
    assert set(named) <= set(SCENARIOS)


def test_each_finding_says_of_each_kernel_whether_it_has_it() -> None:
    for row in ROWS:
        assert len(row) in (6, 7), row
        assert all(re.fullmatch(r"yes|no|-|-?[\d,]+", cell) for cell in row[2:]), row
        assert any(cell not in ("no", "-") for cell in row[2:]), row
