# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder with the proc and sys of a made-up host."""

import struct
from pathlib import Path

CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0/current_clocksource"
CLOCKSOURCES = "sys/devices/system/clocksource/clocksource0/available_clocksource"
ONLINE = "sys/devices/system/cpu/online"
TOLERANCE = "sys/module/kvm/parameters/tsc_tolerance_ppm"
KVM_NOTE = "sys/module/kvm/notes/.note.gnu.build-id"
STATUS = "proc/thread-self/status"


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """An ELF note: name and content filled up to words."""
    padded = [each + b"\0" * (-len(each) % 4) for each in (name, content)]
    return struct.pack("<III", len(name), len(content), kind) + b"".join(padded)


def build_id(content: bytes) -> bytes:
    return note(b"GNU\0", 3, content)


FILES: dict[str, bytes] = {
    CLOCKSOURCE: b"tsc\n",
    CLOCKSOURCES: b"tsc hpet acpi_pm \n",
    ONLINE: b"0-3\n",
    STATUS: b"Name:\tpython3\nCpus_allowed:\tf\nCpus_allowed_list:\t0-1,3\n",
    "proc/sys/kernel/osrelease": b"6.12.0-made-up\n",
    "proc/sys/kernel/random/boot_id": b"12345678-1234-1234-1234-123456789abc\n",
    TOLERANCE: b"250\n",
    "sys/module/kvm_amd/parameters/npt": b"Y\n",
    KVM_NOTE: build_id(bytes(range(20))),
}


def write(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def made_up(root: Path) -> str:
    """Puts the files there; the folder, as the reader takes it."""
    for path, content in FILES.items():
        write(root, path, content)
    return str(root)
