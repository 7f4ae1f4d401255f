# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be wrong with what the lab was given."""


class LabError(Exception):
    """The lab cannot do what it was asked: an unknown kernel, a missing program, a broken package.

    The text is one line for the user. A machine that was lost while it ran is not this.
    """
