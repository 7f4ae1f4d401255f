# SPDX-License-Identifier: GPL-2.0-or-later
"""The .config a kernel was built with, where one is at hand, and what the lab needs of it."""

import gzip
import re
import zlib
from pathlib import Path

from kvmharness.lab.errors import LabError

# What a boot in the lab cannot do without, whatever the machine: its file system, and its two serial ports.
_NEEDED = (
    "CONFIG_64BIT",
    "CONFIG_BINFMT_ELF",
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_DEVTMPFS",
    "CONFIG_FUTEX",
    "CONFIG_PROC_FS",
    "CONFIG_SERIAL_8250",
    "CONFIG_SERIAL_8250_CONSOLE",
)
# Options that older kernels have not yet, and do without: missing only where the .config says so.
_NEEDED_IF_THERE = ("CONFIG_X86_IOPL_IOPERM",)

_LINE = re.compile(r"(?:# )?(CONFIG_\w+)(?:=(.*)| is not set)")


def parsed(text: str) -> dict[str, str]:
    """The options of a .config; those that are not set have the value n."""
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            found[match[1]] = match[2] or "n"
    return found


def read(path: Path) -> dict[str, str] | None:
    """The options in a file, packed with gzip or not; None where it cannot be read."""
    try:
        data = path.read_bytes()
        return parsed((gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace"))
    except (OSError, EOFError, zlib.error):
        return None


def check(options: dict[str, str]) -> None:
    """LabError, naming all that is missing, when a kernel built so cannot boot in the lab or has no KVM."""
    missing = [name for name in _NEEDED if options.get(name) != "y"]
    missing += [name for name in _NEEDED_IF_THERE if options.get(name, "y") != "y"]
    if not any(options.get(name) in ("y", "m") for name in ("CONFIG_KVM_AMD", "CONFIG_KVM_INTEL")):
        missing.append("CONFIG_KVM_AMD or CONFIG_KVM_INTEL")
    if missing:
        raise LabError(f"its .config lacks {', '.join(missing)} (see docs/kernels.md)")
