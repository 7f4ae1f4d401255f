# SPDX-License-Identifier: GPL-2.0-or-later
"""How long tests wait for what comes soon."""

# Seconds. Only what hangs takes as long: no test fails because its machine is busy, and none waits for ever.
GIVE_UP_S = 600
