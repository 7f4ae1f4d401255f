# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule as code is written with (docs/policies.md): `from kvmharness.rule import Rule, Write`."""

from kvmharness.model.interval import Interval
from kvmharness.model.written_rule import Decision, Write
from kvmharness.model.written_rule import WrittenRule as Rule

__all__ = ["Decision", "Interval", "Rule", "Write"]
