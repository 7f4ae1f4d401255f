# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiny guests that read their TSC, and where they leave what they read."""

from kvmharness.guests.loader import load, samples
from kvmharness.guests.program import Instruction, Program
from kvmharness.guests.rdtsc import PROGRAMS

__all__ = ["PROGRAMS", "Instruction", "Program", "load", "samples"]
