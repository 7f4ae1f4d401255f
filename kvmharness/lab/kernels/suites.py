# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's suites besides the machine's own, on the mirrors that the machine's apt sources or the user name.

So nothing but the machine's configuration says which host is asked, and through which proxy.
"""

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, mirror
from kvmharness.lab.kernels.apt import State
from kvmharness.lab.kernels.packages import KernelPackage, NoAnswerError
from kvmharness.lab.kernels.signature import KEYRINGS

# A release's security updates are a suite of their own, mostly on a mirror of their own.
_SECURITY = "-security"
SUITES = {
    "bullseye": ("bullseye", "bullseye-security"),
    "bookworm": ("bookworm", "bookworm-security"),
    "bookworm-backports": ("bookworm-backports",),
    "trixie": ("trixie", "trixie-security"),
    "trixie-backports": ("trixie-backports",),
    "sid": ("sid",),
    "experimental": ("experimental",),
}

_FIELDS = ("IDENTIFIER", "ORIGIN", "LABEL", "REPO_URI")


def offered(suite: str, refresh: bool = False) -> tuple[list[KernelPackage], list[str]]:
    """The kernels a suite of SUITES offers, and what went wrong with any part of it, a line each.

    Looked up at most once a day, with `refresh` at most every ten minutes. A mirror need not have all:
    of an old release the security updates may be gone. LabError without apt; NoAnswerError when the
    mirror cannot be reached and was never asked for the suite.
    """
    if mirror.is_used():
        mirror.check()
    found: list[KernelPackage] = []
    troubles = []
    for part in SUITES[suite]:
        known = archive.of(part).remembered.known(refresh)
        try:
            found += _asked(part).offered(refresh) if known is None else known
        except NoAnswerError:
            raise
        except LabError as error:
            troubles.append(f"{part}: {error}")
    return found, troubles


def remembered(suite: str) -> list[KernelPackage]:
    """The kernels a suite of SUITES offered when last asked, however long ago; none if it never was."""
    return [package for part in SUITES[suite] for package in archive.of(part).remembered.whenever() or []]


def _asked(part: str) -> archive.Archive:
    """The archive of a suite, with what it takes to ask it for the first time."""
    return archive.of(part) if mirror.is_used() else State(part, _source(part))


def _source(part: str) -> str:
    """The line of a sources.list for a suite; LabError when the machine's own sources name no mirror."""
    security = part.endswith(_SECURITY)
    for url, is_security in _mirrors():
        if is_security == security:
            # Without a keyring apt goes by the keys of /etc/apt/trusted.gpg.d.
            keyring = next((f" signed-by={path}" for path in KEYRINGS if path.exists()), "")
            return f"deb [arch=amd64 target=Packages{keyring}] {url} {part} main"
    raise LabError("this machine's apt sources name no Debian mirror to ask for other suites")


def _mirrors() -> list[tuple[str, bool]]:
    """The Debian mirrors of the machine's own sources, and whether each is one of security updates."""
    State().offered()  # for apt to know what its sources are, it must have asked them once
    listed = State().apt("apt-get", "indextargets", "--format", "\t".join(f"$({name})" for name in _FIELDS))
    mirrors = []
    for line in listed.splitlines():
        identifier, origin, label, uri = line.split("\t")
        if (identifier, origin) == ("Packages", "Debian"):
            mirrors.append((uri, label == "Debian-Security"))
    return mirrors
