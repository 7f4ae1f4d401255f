# SPDX-License-Identifier: GPL-2.0-or-later
"""Playing on a box that is reached by ssh: box.py is this end, there.py runs on the box."""
