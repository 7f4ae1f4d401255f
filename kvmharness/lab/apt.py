# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, through the machine's own apt sources and keys, in an apt state of our own.

apt checks signatures and hashes as it always does; the system's lists, cache and packages are not
touched, and no root is needed. Sources, keys and proxies are the machine's.
"""

import functools
import json
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from debian.deb822 import Deb822
from debian.debian_support import Version

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError

# Kernels of the flavour that has KVM's modules and little else. Each release has a package of its own;
# packages with a shorter version in their name are pointers to these.
_PACKAGE = re.compile(r"linux-image-(\d+\.\d+\.\d+\S*-cloud-amd64)")
_INDEX_AGE_S = 24 * 3600

# The system's own hooks (package manager front ends, say) are not for this state.
_CONFIGURATION = """\
Dir::State "{root}/state/";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache/";
Dir::Log "{root}/log/";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"""


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """A kernel that the mirror offers: package, its version, and the kernel's release (uname -r)."""

    package: str
    version: str
    release: str


def offered(refresh: bool = False) -> list[KernelPackage]:
    """The kernels this machine's apt sources offer, oldest first.

    Looked up at most once a day, unless `refresh`. LabError without apt, or when the mirror does not
    answer and was never asked before.
    """
    index = _root() / "kernels.json"
    known = _read_index(index)
    fresh = known is not None and time.time() - index.stat().st_mtime < _INDEX_AGE_S
    if known is not None and fresh and not refresh:
        return known
    with cache.locked(_root()):
        trouble = None
        try:
            # By itself apt-get takes a mirror that does not answer for no trouble at all.
            _apt("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
        except LabError as error:
            trouble = error
        found = _look_up()
        if trouble is None:
            index.write_text(json.dumps([asdict(package) for package in found]))
        elif not found:
            raise trouble
    return found


def matching(prefix: str, packages: list[KernelPackage]) -> KernelPackage | None:
    """The newest package whose version, or whose kernel's release, begins with the parts of `prefix`."""
    wanted = _parts(prefix)
    matches = [
        package
        for package in packages
        if wanted in (_parts(package.version)[: len(wanted)], _parts(package.release)[: len(wanted)])
    ]
    return max(matches, key=lambda package: Version(package.version), default=None)


def download(package: KernelPackage, folder: Path) -> Path:
    """The package's .deb, put into `folder`; apt has checked it against the signed index."""
    with cache.locked(_root()):
        _apt("apt-get", "download", "-q", f"{package.package}={package.version}", cwd=folder)
    found = sorted(folder.glob("*.deb"))
    if len(found) != 1:
        raise LabError(f"apt-get download {package.package} left {len(found)} packages where one was due")
    return found[0]


def _root() -> Path:
    return cache.root() / "apt"


def _parts(version: str) -> list[str]:
    return re.split(r"[.\-+~]", version)


def _read_index(index: Path) -> list[KernelPackage] | None:
    try:
        rows = json.loads(index.read_text())
        return [KernelPackage(str(row["package"]), str(row["version"]), str(row["release"])) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _look_up() -> list[KernelPackage]:
    names = [
        name for name in _apt("apt-cache", "pkgnames", "linux-image-").split() if _PACKAGE.fullmatch(name)
    ]
    if not names:
        return []
    found = []
    for paragraph in Deb822.iter_paragraphs(_apt("apt-cache", "show", *names), use_apt_pkg=False):
        match = _PACKAGE.fullmatch(paragraph["Package"])
        if match:
            found.append(KernelPackage(paragraph["Package"], paragraph["Version"], match.group(1)))
    return sorted(set(found), key=lambda package: Version(package.version))


def _apt(program: str, *arguments: str, cwd: Path | None = None) -> str:
    if shutil.which(program) is None:
        raise LabError(f"debian: kernels come through apt, and there is no {program} on this machine")
    command = [program, "-c", str(_configuration()), *arguments]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise LabError(
            f"{program} {arguments[0]}: {(errors or ['failed without a word'])[0].removeprefix('E: ')}"
        )
    return done.stdout


@functools.cache
def _configuration() -> Path:
    root = _root()
    for folder in ("state/lists/partial", "cache/archives/partial", "log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    path = root / "apt.conf"
    path.write_text(_CONFIGURATION.format(root=root))
    return path
