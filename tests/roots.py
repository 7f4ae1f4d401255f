# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole Debian systems in folders: what a stranger has who starts from nothing.

They are made by debootstrap from the mirror that this machine's apt sources name, and entered by chroot in
namespaces of their own, so that nothing is left mounted and no process goes on.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmharness.lab.kernels import mirror

CHECKOUT = Path(__file__).parent.parent
USER = "somebody"
# What pip needs to get at this machine's registry, which is a matter of the machine's.
_OF_PIP = ("PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "http_proxy", "https_proxy", "no_proxy")
_CERTIFICATES = "etc/certificates-of-the-machine.crt"
_ENTER = """
mount --make-rprivate / && cd "$1" && shift
mount -t proc proc proc && mount -t tmpfs tmpfs tmp && mount --rbind /dev dev
exec chroot . "$@"
"""


@dataclass(frozen=True, slots=True)
class Root:
    """A system in a folder."""

    path: Path

    def run(self, script: str, user: str = "root", **environment: str) -> "subprocess.CompletedProcess[str]":
        """What a script of bash's comes to, run there by a user."""
        home = _home(user)
        values = {name: os.environ[name] for name in _OF_PIP if name in os.environ}
        values |= {"HOME": home, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PIP_CERT": f"/{_CERTIFICATES}"}
        values |= environment
        words = [f"{name}={value}" for name, value in values.items()]
        as_user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if user != "root" else []
        inside = ["env", "-i", *words, *as_user, "bash", "-c", f"cd {home} && {script}"]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return subprocess.run(
            [*namespaces, "sh", "-ec", _ENTER, "sh", str(self.path), *inside],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def said(self, script: str, user: str = "root", **environment: str) -> str:
        """What a script prints that has to succeed."""
        done = self.run(script, user, **environment)
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def install(self, *packages: str) -> None:
        """Install Debian's packages."""
        self.said(
            "apt-get update -q && apt-get install -q -y --no-install-recommends " + " ".join(packages),
            DEBIAN_FRONTEND="noninteractive",
        )

    def put_checkout(self, user: str = "root") -> None:
        """Put a clean checkout into a user's home, as kvmharness."""
        place = f"{_home(user)}/kvmharness"
        command = ["git", "clone", "--quiet", str(CHECKOUT), f"{self.path}{place}"]
        subprocess.run(command, check=True, capture_output=True)
        self.said(f"chown -R {user}: {place}")


def _home(user: str) -> str:
    return "/root" if user == "root" else f"/home/{user}"


def debian(suite: str, folder: Path) -> Root:
    """A bare Debian of this suite in a new folder. The test is skipped where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("missing capability root: debootstrap and chroot need it")
    for program in ("debootstrap", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"missing capability {program}")
    probe = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("missing capability mount: the machine does not let root mount anything")
    sources = [url for url in mirror.of_sources() if url.rstrip("/").endswith("/debian")]
    if not sources or not (CHECKOUT / ".git").exists():
        pytest.skip("missing capability Debian mirror: this machine's sources name none")
    path = folder / suite
    made = ["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, str(path), sources[0]]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    for name in ("resolv.conf", "hosts"):
        shutil.copy(Path("/etc") / name, path / "etc" / name)
    certificates = os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(certificates, path / _CERTIFICATES)
    return Root(path)
