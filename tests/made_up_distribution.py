# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of another distribution, as far as its /etc/os-release says so."""

import platform

import pytest


def on_distribution(monkeypatch: pytest.MonkeyPatch, name: str, *like: str) -> None:
    """Have this machine's /etc/os-release say this."""
    release = {"ID": name, "ID_LIKE": " ".join(like)}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
