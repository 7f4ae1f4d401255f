# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus: scripts that reached something new, one a line of JSON; and findings, a scenario file each."""

import json
from collections.abc import Iterable
from pathlib import Path

from kvmharness import script
from kvmharness.explore.findings import Finding
from kvmharness.files import write_whole
from kvmharness.scenarios.file import to_text
from kvmharness.script import Script, ScriptError

_SCRIPTS, _FINDINGS = "scripts.jsonl", "findings"
_MOST_SCRIPTS = 20_000


class CorpusError(ValueError):
    """What is in the corpus makes no sense; the text says where."""


def load(folder: Path) -> list[Script]:
    """The scripts of a corpus; none where there is none yet. CorpusError, or OSError."""
    path = folder / _SCRIPTS
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), 1):
        try:
            found.append(tuple(script.from_json(step) for step in json.loads(line)))
        except (ScriptError, ValueError, TypeError, RecursionError) as error:
            raise CorpusError(f"{path}, line {number}: {error}") from None
    return found[-_MOST_SCRIPTS:]


def save(folder: Path, scripts: Iterable[Script]) -> None:
    """Keep scripts there, instead of what was there before. OSError where that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = list(dict.fromkeys(scripts))[-_MOST_SCRIPTS:]
    lines = (json.dumps([script.to_json(step) for step in each], separators=(",", ":")) for each in kept)
    write_whole(folder / _SCRIPTS, "".join(f"{line}\n" for line in lines).encode())


def keep(folder: Path, finding: Finding, source: str) -> Path:
    """Write a finding there as a scenario file; the file. OSError where that cannot be."""
    path = path_of(folder, finding)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_text([finding.scenario(source)], finding.lines).encode())
    return path


def path_of(folder: Path, finding: Finding) -> Path:
    """Where a finding is kept."""
    return folder / _FINDINGS / f"{finding.name}.json"
