# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's modules, or a whole kernel, built of a patch or of a tree."""

from kvmharness.lab.build.modules import MODULES, Ground, build, build_contents, build_sources, ground

__all__ = ["MODULES", "Ground", "build", "build_contents", "build_sources", "ground"]
