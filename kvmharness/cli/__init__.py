# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line, one file per command. Reports go to stdout, everything else to stderr."""
