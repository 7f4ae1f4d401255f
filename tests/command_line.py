# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking the command line, as a user would."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kvmharness.cli.main import main

_DOCS = Path(__file__).parents[1] / "docs"
Capture = pytest.CaptureFixture[str]


def status_of(*arguments: str) -> int:
    """What the command exits with; argparse leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return int(str(leaving.code))


def one_line(text: str) -> str:
    """The text, which has to be exactly one line."""
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text.rstrip()


def checked(text: str, schema: str) -> Any:
    """The JSON, held against its schema in docs/."""
    data = json.loads(text)
    jsonschema.validate(data, json.loads((_DOCS / schema).read_text()))
    return data
