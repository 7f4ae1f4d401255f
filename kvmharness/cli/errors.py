# SPDX-License-Identifier: GPL-2.0-or-later
"""What ends a command early, as exit statuses and one line for the user."""

NOTHING_FAILED = 0
FAILED = 1
BAD_INPUT = 2
MACHINE_LOST = 3
NOTHING_JUDGED = 4
INTERRUPTED = 130  # what a shell makes of SIGINT


class UsageError(Exception):
    """The command was given something it cannot work with; the text is the line for the user."""
