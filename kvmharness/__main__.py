# SPDX-License-Identifier: GPL-2.0-or-later
"""python -m kvmharness."""

import sys

from kvmharness.cli.main import main

sys.exit(main())
