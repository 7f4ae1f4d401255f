# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings: what a VMM does to the time of its guests, as its KVM ioctls show it."""
