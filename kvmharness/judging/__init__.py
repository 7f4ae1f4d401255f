# SPDX-License-Identifier: GPL-2.0-or-later
"""From traces to verdicts: what the KVM can do, whether a trace is possible, which policy a kernel has."""
