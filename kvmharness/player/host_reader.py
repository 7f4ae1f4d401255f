# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads what a host is from /proc and /sys (host_state has the names)."""

from __future__ import annotations

import os

from kvmharness.player.host_state import BUILD_ID, MODULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0"
# What may change at any time, and costs two readings to look at.
_QUICK = {
    "clocksource": f"{_CLOCKSOURCE}/current_clocksource",
    "available clocksources": f"{_CLOCKSOURCE}/available_clocksource",
    "CPUs online": "sys/devices/system/cpu/online",
}
_PLAIN = {
    "kernel": "proc/sys/kernel/osrelease",
    "boot": "proc/sys/kernel/random/boot_id",
    **_QUICK,
}

_LONGEST = 200
# Of an ELF note (elf(5)): three words, then the name, then what it says.
_NOTE_HEAD, _GNU, _NT_GNU_BUILD_ID = 12, b"GNU\0", 3


def read(root: str = "/") -> dict[str, str]:
    """What the host is now. `root` is the folder that holds proc and sys."""
    facts = _texts(root, _PLAIN)
    allowed = _cpus(_allowed(root)) & _cpus(facts.get("CPUs online", ""))
    if allowed:
        # The kernel takes a CPU that went offline off a thread's own list some time later.
        facts["CPUs allowed"] = _listed(allowed)[:_LONGEST]
    for module in MODULES:
        facts.update(_parameters(root, module))
        build_id = _build_id(f"{root}/sys/module/{module}/notes/.note.gnu.build-id")
        if not build_id and module == "kvm":
            build_id = _build_id(f"{root}/sys/kernel/notes")
        if build_id:
            facts[module + BUILD_ID] = build_id
    return facts


def read_quick(root: str = "/") -> dict[str, str]:
    """What may change at any time, and is cheap to look at."""
    return _texts(root, _QUICK)


def _texts(root: str, paths: Mapping[str, str]) -> dict[str, str]:
    found = {name: _text(f"{root}/{path}") for name, path in paths.items()}
    return {name: text for name, text in found.items() if text is not None}


def _allowed(root: str) -> str:
    """The CPUs that this thread may run on, as the kernel lists them: proc(5), Cpus_allowed_list."""
    for line in (_bytes(f"{root}/proc/thread-self/status") or b"").splitlines():
        if line.startswith(b"Cpus_allowed_list:"):
            return _plain(line.partition(b":")[2])
    return ""


def _cpus(listed: str) -> set[int]:
    """The CPUs of a list as the kernel has it: 0-3,8."""
    found: set[int] = set()
    for part in listed.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return found


def _listed(cpus: set[int]) -> str:
    """CPUs as the kernel lists them."""
    first = [cpu for cpu in sorted(cpus) if cpu - 1 not in cpus]
    last = [cpu for cpu in sorted(cpus) if cpu + 1 not in cpus]
    return ",".join(
        f"{low}-{high}" if high > low else f"{low}" for low, high in zip(first, last, strict=True)
    )


def _parameters(root: str, module: str) -> dict[str, str]:
    folder = f"{root}/sys/module/{module}/parameters"
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    return {
        f"{module}.{name}": text
        for name, text in _texts(folder, dict(zip(names, names, strict=True))).items()
    }


def _build_id(path: str) -> str:
    """The build id in a file of ELF notes, in hexadecimal; "" if there is none."""
    notes = _bytes(path) or b""
    while len(notes) >= _NOTE_HEAD:
        name_size, size, kind = (int.from_bytes(notes[at : at + 4], "little") for at in (0, 4, 8))
        begin = _NOTE_HEAD + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and notes[_NOTE_HEAD : _NOTE_HEAD + name_size] == _GNU:
            return notes[begin : begin + size].hex()
        notes = notes[begin + (size + 3) // 4 * 4 :]
    return ""


def _text(path: str) -> str | None:
    data = _bytes(path)
    return None if data is None else _plain(data)


def _plain(data: bytes) -> str:
    """A text of printable ASCII, as traces carry it."""
    return bytes(each if 32 <= each < 127 else 32 for each in data[:_LONGEST]).decode().strip()


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None
