# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/selftests.md names scenarios that there are."""

from pathlib import Path

import kvmharness
from kvmharness.scenarios import SCENARIOS

PAGE = Path(kvmharness.__file__).parent.parent / "docs" / "selftests.md"


def test_each_selftest_has_a_scenario_or_none_yet() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    for _, _, scenarios, asserts in rows:
        names = [each.strip() for each in scenarios.split(",")]
        assert (names == ["none yet"]) is (not asserts.strip())
        assert names == ["none yet"] or set(names) <= set(SCENARIOS)
