# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, through apt, in apt states of our own: one for the machine's sources, one for each
suite besides.

apt checks signatures and hashes as it always does; the system's lists, cache and packages are not
touched, and no root is needed. Sources, keys and proxies are the machine's.
"""

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Packages

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels.packages import (
    KernelPackage,
    NoAnswerError,
    Remembered,
    depends,
    is_of_kernel,
    kernels_in,
)

# A line of what apt-get --print-uris prints: URI, file name, size, and a hash from the signed index.
_URI = re.compile(r"^'(\S+)' (\S+) (\d+) (SHA\d+:\w+)$", re.MULTILINE)
# Its download resumes what `apt-get download` would begin again.
_HELPER = "/usr/lib/apt/apt-helper"
# How often it is looked at whether the disk is full while apt works.
_LOOK_AFTER_S = 1.0
# The system's own hooks (package manager front ends, say) are not for this state. A release that
# becomes the old one changes its suite's and version's names; that is no reason to stop. What apt reads
# faster the next time (pkgcache) would take four times the room of the indexes.
_CONFIGURATION = """\
Dir::State "{root}/state/";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{root}/log/";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::AllowReleaseInfoChange::Suite "true";
Acquire::AllowReleaseInfoChange::Version "true";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
"""
_OTHER_SOURCES = """\
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Retries "1";
"""


@dataclass(frozen=True, slots=True)
class State:
    """An apt state below the cache: of the machine's own sources, or of a `suite` with the line of a
    sources.list as its only source (the one it had before, if none is given)."""

    suite: str = ""
    source: str = ""

    @property
    def root(self) -> Path:
        """Where it is kept."""
        own = cache.root() / "apt"
        return own / "suites" / self.suite if self.suite else own

    @property
    def remembered(self) -> Remembered:
        """What was offered when last asked."""
        return Remembered(self.root / "kernels.json")

    def offered(self, refresh: bool = False) -> list[KernelPackage]:
        """What the sources offer, oldest first (see archive.offered())."""
        known = self.remembered.known(refresh)
        if known is not None:
            return known
        with cache.locked(self.root):
            if self.source:
                (self.root / "sources.list").write_text(self.source + "\n")
            trouble = None
            try:
                # By itself apt-get takes a mirror that does not answer for no trouble at all.
                self.apt("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
            except LabError as error:
                trouble = error
            found = self._look_up()
            if trouble is None:
                self.remembered.keep(found)
            elif not found:
                raise trouble
        return found

    def fetched(self, versions: Mapping[str, str], folder: Path) -> list[Path]:
        """The .debs of packages of these versions, put into `folder` (see archive.fetched())."""
        with cache.locked(self.root):
            wanted = [f"{name}={version}" for name, version in versions.items()]
            listed = _URI.findall(self.apt("apt-get", "download", "--print-uris", *wanted))
            if len(listed) != len(wanted):
                raise LabError(f"apt-get names {len(listed)} files for {' '.join(wanted)}")
            return [self.fetch(uri, folder / name, int(size), content) for uri, name, size, content in listed]

    def needed_by(self, package: str, version: str) -> list[str]:
        """The packages that one of this version depends on itself. LabError when the mirror has it not."""
        shown = self.apt("apt-cache", "show", f"{package}={version}")
        paragraphs = Packages.iter_paragraphs(shown, use_apt_pkg=False)
        return [name for paragraph in paragraphs for name in depends(paragraph)]

    def fetch(self, uri: str, file: Path, size: int, content: str) -> Path:
        """Fetch `uri`, `size` bytes, into `file`; nothing is left there that has not the hash `content`.

        What an interrupted attempt left in this state's cache is completed.
        """
        partial = self.root / "cache/archives/partial" / file.name
        begun = partial.stat().st_size if partial.exists() else 0
        if begun >= size:
            partial.unlink()
            begun = 0
        try:
            self._fetch(uri, partial, content)
        except LabError as error:
            # What was begun may have been something else.
            if not begun or "Hash" not in str(error):
                raise
            self._fetch(uri, partial, content)
        try:
            shutil.move(partial, file)
        except OSError as error:
            raise LabError(f"{file} cannot be written: {error.strerror or error}") from None
        return file

    def _fetch(self, uri: str, partial: Path, content: str) -> None:
        try:
            self.apt(_HELPER, "download-file", uri, str(partial), content)
        except LabError as error:
            if "Hash" in str(error):
                for leftover in partial.parent.glob(f"{partial.name}*"):
                    leftover.unlink()
            raise

    def apt(self, program: str, *arguments: str) -> str:
        """What a program of apt's prints when it works on this state; LabError with its first complaint."""
        if shutil.which(program) is None:
            raise LabError(f"debian: kernels come through apt, and there is no {program} on this machine")
        with subprocess.Popen(
            [program, "-c", str(_configuration(self.root, bool(self.suite))), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            # A package that lies in the user's folder is one that apt-get does not name.
            cwd=self.root,
            start_new_session=True,
        ) as process:
            try:
                printed, complaints = self._attend(process)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # it has processes of its own
                raise
        if process.returncode:
            raise _error(f"{Path(program).name} {arguments[0]}", complaints)
        return printed

    def _attend(self, process: "subprocess.Popen[str]") -> tuple[str, str]:
        """What it printed and complained of. LabError when the disk is full: apt 2.6 then waits for ever."""
        while True:
            try:
                return process.communicate(timeout=_LOOK_AFTER_S)
            except subprocess.TimeoutExpired:
                if cache.is_full(self.root):
                    text = f"{self.root} cannot be written: {os.strerror(errno.ENOSPC)}"
                    raise LabError(text) from None

    def _look_up(self) -> list[KernelPackage]:
        names = list(filter(is_of_kernel, self.apt("apt-cache", "pkgnames", "linux-").split()))
        if not names:
            return []
        shown = self.apt("apt-cache", "show", *names)
        return kernels_in(list(Packages.iter_paragraphs(shown, use_apt_pkg=False)), self.suite)


def _error(command: str, stderr: str) -> LabError:
    """What apt complains of, in one line: a missing key before its consequences."""
    missing = re.search(r"(NO_PUBKEY|Missing key) (\w+)", stderr)
    if missing:
        keyring = "install a newer debian-archive-keyring"
        return LabError(f"{command}: the keyrings here lack the mirror's key {missing[2]}: {keyring}")
    errors = [line for line in stderr.splitlines() if line.startswith("E:")]
    complaint = (errors or ["failed without a word"])[0].removeprefix("E: ")
    silent = re.search(r"Failed to fetch \S+ .*(resolv|connect|timed out|timeout)", complaint, re.IGNORECASE)
    return (NoAnswerError if silent else LabError)(f"{command}: {complaint}")


@functools.cache
def _configuration(root: Path, other_sources: bool) -> Path:
    for folder in ("state/lists/partial", "cache/archives/partial", "log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    path = root / "apt.conf"
    path.write_text((_CONFIGURATION + _OTHER_SOURCES * other_sources).format(root=root))
    return path
