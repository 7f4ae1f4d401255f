# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kvmharness this is: its version, and the revision of the checkout that it runs from."""

import subprocess
from pathlib import Path

from kvmharness import __version__

_HERE = Path(__file__).resolve().parent


def described() -> str:
    """The version; from a checkout also git's revision, with "-dirty" where files were changed: what a mail
    or a bug report has to name."""
    revision = _revision()
    return f"{__version__} ({revision})" if revision else __version__


def _revision() -> str:
    """The checkout's revision; "" for an installed package, or where there is no git."""
    if not (_HERE.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(_HERE.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
