# SPDX-License-Identifier: GPL-2.0-or-later
"""What installs a missing program on this machine: its distribution's command, with the distribution's own
names of the packages.

`scripts/setup` runs this file by itself, before anything is installed, so it imports nothing of kvmharness.
"""

import platform
import sys

# By the names that /etc/os-release calls a distribution by (ID, then ID_LIKE, os-release(5)).
_COMMANDS = {
    "debian": "apt-get install",
    "ubuntu": "apt-get install",
    "rhel": "dnf install",
    "fedora": "dnf install",
    "arch": "pacman -S --needed",
    "suse": "zypper install",
    "opensuse": "zypper install",
}
# Debian's packages by what others call theirs, where it is not the same; "" where nothing is to be installed.
_DNF = {
    "bochs-sdl": "",  # its display comes with bochs
    "debian-archive-keyring": "debian-keyring",
    "gpgv": "gnupg2",
    "libc6-dev": "glibc-devel glibc-static",
    "libelf-dev": "elfutils-libelf-devel",
    "libssl-dev": "openssl-devel",
    "python3-dev": "python3-devel",
    "python3-venv": "python3-pip",
}
_NAMES = {
    "debian": {},
    "ubuntu": {},
    "fedora": _DNF,
    "rhel": {**_DNF, "qemu-system-x86": "qemu-kvm"},
    "arch": {
        "bochs-sdl": "",
        "gpgv": "gnupg",
        "libc6-dev": "glibc",
        "libelf-dev": "libelf",
        "libssl-dev": "openssl",
        "python3": "python",
        "python3-dev": "python",
        "python3-venv": "python",
    },
    "suse": {
        "bochs-sdl": "",
        "gpgv": "gpg2",
        "libc6-dev": "glibc-devel glibc-devel-static",
        "libelf-dev": "libelf-devel",
        "libssl-dev": "libopenssl-devel",
        "python3-dev": "python3-devel",
        "python3-venv": "python3-pip",
        "qemu-system-x86": "qemu-x86",
    },
}
_NAMES["opensuse"] = _NAMES["suse"]


def install(*packages: str) -> str:
    """The command that installs what Debian calls `packages`; on an unknown distribution, those names."""
    known = next((name for name in _called() if name in _COMMANDS), "")
    if not known:
        return f"install what Debian calls {' '.join(packages)}"
    own = " ".join(_NAMES[known].get(package, package) for package in packages)
    return f"{_COMMANDS[known]} {' '.join(dict.fromkeys(own.split()))}"


def _called() -> list[str]:
    """This machine's distribution, and those that it is like."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return []
    return [release.get("ID", ""), *release.get("ID_LIKE", "").split()]


if __name__ == "__main__":
    print(install(*sys.argv[1:]))
