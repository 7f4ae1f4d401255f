# SPDX-License-Identifier: GPL-2.0-or-later
"""The signature of a Debian archive, checked by gpgv against the keyring that the distribution has."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from kvmharness.lab import distribution
from kvmharness.lab.errors import LabError

# Another keyring than the distribution's; in OpenPGP's binary format, as gpgv wants it.
KEYRING = "KVMHARNESS_DEBIAN_KEYRING"
# As the package debian-archive-keyring installs them (the second is the older name).
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
_PROGRAMS = ("gpgv", "gpgv2")


def check() -> None:
    """LabError when signatures cannot be checked here: there is no keyring, or no gpgv."""
    _keyring()
    _program()


def verified(message: bytes, name: str) -> bytes:
    """What a clear-signed message says, without its signature; of what is around that, nothing.

    A good signature by one key of the keyring is enough: archives sign with their last keys, too. LabError
    for a message without one; it is called `name`.
    """
    keyring, program = _keyring(), _program()
    with tempfile.TemporaryDirectory() as home:
        signed, said = Path(home) / "signed", Path(home) / "said"
        signed.write_bytes(message)
        command = [program, "--status-fd", "1", "--keyring", str(keyring), "--output", str(said), str(signed)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "GNUPGHOME": home},
        )
        reason = _complaint(done.stdout, keyring)
        if reason:
            raise LabError(f"{name} {reason}")
        try:
            return said.read_bytes()
        except OSError:
            raise LabError(f"{name}: {program} does not say what was signed") from None


def _complaint(status: str, keyring: Path) -> str:
    """What is wrong with the signatures, by gpgv's lines of status (doc/DETAILS of GnuPG); "" if nothing."""
    words = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    kinds = {each[0] for each in words if each}
    if "BADSIG" in kinds:
        return "has a wrong signature: it was changed after it was signed"
    if {"GOODSIG", "VALIDSIG"} <= kinds:
        return ""
    if "EXPKEYSIG" in kinds or "REVKEYSIG" in kinds:
        return f"is signed by a key that is no longer valid in {keyring}: update debian-archive-keyring"
    missing = re.search(r"NO_PUBKEY (\w+)", status)
    if missing:
        return f"is signed by key {missing[1]}, which {keyring} lacks: update debian-archive-keyring"
    return "is not signed"


def _keyring() -> Path:
    named = os.environ.get(KEYRING)
    if named:
        if not Path(named).is_file():
            raise LabError(f"{KEYRING}: there is no file {named}")
        return Path(named).absolute()
    found = next((path for path in KEYRINGS if path.is_file()), None)
    if found is None:
        raise LabError(
            "there is no keyring of Debian's archive on this machine to check its signatures with: "
            f"{distribution.install('debian-archive-keyring')} (or set {KEYRING} to the path of one)"
        )
    return found


def _program() -> str:
    found = next((name for name in _PROGRAMS if shutil.which(name)), None)
    if found is None:
        lacking = distribution.install("gpgv")
        raise LabError(f"there is no gpgv on this machine to check Debian's signatures with: {lacking}")
    return found
