# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated machines: which there are, what boots in them, and what they say."""
