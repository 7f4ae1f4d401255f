# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report for programs says of its own run: when, how long, by which command, programs and packages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kvmharness.printable import printable


@dataclass(frozen=True, slots=True)
class About:
    """A run, as whoever reads its report later has to know it.

    `started` is the time in UTC (ISO 8601), `seconds` how long it took until the report, `command` the words
    on the command line. `version` is ours with a checkout's revision, `host` what uname says of this machine.
    `emulators` are the versions of the emulators by program, `packages` the exact packages of the kernels
    that are Debian's, by the name that the user gave them.
    """

    started: str
    seconds: float
    command: tuple[str, ...]
    version: str
    host: str
    emulators: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it, as every JSON output of ours holds it under `about`."""
        found = asdict(self)
        found["command"] = [printable(word) for word in self.command]
        for name in ("emulators", "packages"):
            found[name] = {printable(key): printable(text) for key, text in found[name].items()}
        return found
