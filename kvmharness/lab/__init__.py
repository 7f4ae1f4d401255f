# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels in emulated machines: a kernel, an image with the player, a machine, what came out."""
