# SPDX-License-Identifier: GPL-2.0-or-later
"""All that runs beside the device: it plays scripts on /dev/kvm and records what happened.

What is here travels into a lab machine, so nothing here imports what an emulated CPU is slow to load.
"""
