# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches: what a mail says, what its diff changes, and where that goes."""

from kvmharness.lab.patches.series import Patch, PatchError, choose, choose_each, read

__all__ = ["Patch", "PatchError", "choose", "choose_each", "read"]
