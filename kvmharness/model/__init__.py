# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference model's place: pure arithmetic on what a kernel must have done, no I/O, no clock.

Today it holds intervals; the rules of KVM's TSC synchronization and the policies come next.
"""
