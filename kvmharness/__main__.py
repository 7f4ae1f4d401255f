# SPDX-License-Identifier: GPL-2.0-or-later
"""python -m kvmharness, and the command kvmharness."""

import os
import signal
import sys

# Until the command is loaded, which takes half a second, Ctrl-C ends this process without a word. Where
# whoever started us ignores it, it stays ignored.
_INTERRUPTS = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _INTERRUPTS:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Run a command; its exit status."""
    from kvmharness.cli.errors import INTERRUPTED  # noqa: PLC0415
    from kvmharness.cli.main import main as run  # noqa: PLC0415

    try:
        if _INTERRUPTS:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run()
        if _INTERRUPTS:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    return status


if __name__ == "__main__":
    sys.exit(main())
