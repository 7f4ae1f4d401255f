# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports as one page of HTML that needs nothing else: no network, and no script to read it."""
