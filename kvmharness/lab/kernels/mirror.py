# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels straight from a mirror, for machines without apt (or for whoever names a mirror).

What is fetched is checked from the top: a suite's InRelease by its signature, the index by the hash in that,
each package by the hash in the index. Nothing that fails one of these is read or kept.
"""

import http.client
import lzma
import os
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote

from debian.deb822 import Packages, Release

from kvmharness.files import write_whole
from kvmharness.lab import cache
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import signature
from kvmharness.lab.kernels.packages import (
    KernelPackage,
    NoAnswerError,
    Remembered,
    depends,
    is_of_kernel,
    kernels_in,
)

# Names the mirrors, as in http://HOST/debian http://HOST/debian-security; set, they are used instead of apt.
MIRROR = "KVMHARNESS_DEBIAN_MIRROR"
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
# An archive of Debian's among the sources of others.
_ARCHIVE = re.compile(r"\b(?:https?|file):/\S*/debian(?:-security)?/?(?=\s|$)")

_INDEX = "main/binary-amd64/Packages.xz"
_MOST_INRELEASE = 4 << 20
# Of an index only these are kept: kernels, and what their modules are built from.
_KEPT = re.compile(r"linux-(image|binary|modules|headers|kbuild|source)-\S+")
_TRIES = 3
_TIMEOUT_S = 30.0
_PAUSE_S = 1.0
_PIECE = 1 << 20

_T = TypeVar("_T")


class _MissingError(LabError):
    """The mirror has no such file."""


def is_used() -> bool:
    """Whether a mirror is asked directly: where one is named, or there is no apt."""
    return bool(os.environ.get(MIRROR, "").split()) or shutil.which("apt-get") is None


def mirrors() -> list[str]:
    """The mirrors to ask: those that are named, or those of the machine's sources for apt. LabError for
    none.
    """
    found = os.environ.get(MIRROR, "").split() or of_sources()
    if not found:
        raise LabError(
            "debian: kernels come from a Debian mirror, and there is neither apt nor the name of one on this "
            f"machine: set {MIRROR} to a mirror's URL, as in http://HOST/debian"
        )
    bad = next((url for url in found if not re.match(r"(https?|file)://\S", url)), None)
    if bad:
        raise LabError(f"{MIRROR}: {bad!r} is not the URL of a mirror, as in http://HOST/debian")
    return list(dict.fromkeys(url.rstrip("/") for url in found))


def check() -> None:
    """LabError when no mirror can be asked here: none is named, or its signatures could not be checked."""
    mirrors()
    signature.check()


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite, by its name on the mirror, and what the cache has of it."""

    name: str

    @property
    def root(self) -> Path:
        """Where it is kept."""
        return cache.root() / "apt" / "mirror" / self.name

    @property
    def remembered(self) -> Remembered:
        """What was offered when last asked."""
        return Remembered(self.root / "kernels.json")

    def offered(self, refresh: bool = False) -> list[KernelPackage]:
        """The kernels it offers, oldest first (see archive.offered())."""
        known = self.remembered.known(refresh)
        if known is not None:
            return known
        with cache.locked(self.root):
            # Another may have asked meanwhile.
            known = self.remembered.known(refresh)
            return self._ask() if known is None else known

    def fetched(self, versions: Mapping[str, str], folder: Path) -> list[Path]:
        """The .debs of packages of these versions, put into `folder`, with the hashes of the signed index."""
        return [self._fetch(self._entry(name, version), folder) for name, version in versions.items()]

    def needed_by(self, package: str, version: str) -> list[str]:
        """The packages that one of this version depends on itself. LabError when the mirror has it not."""
        return depends(self._entry(package, version))

    def _ask(self) -> list[KernelPackage]:
        kept = _kept(self._index())
        write_whole(self.root / "Packages", kept.encode())
        found = kernels_in([each for each in _paragraphs(kept) if is_of_kernel(each["Package"])], self.name)
        self.remembered.keep(found)
        return found

    def _entry(self, package: str, version: str) -> Packages:
        self.offered()
        for each in _paragraphs((self.root / "Packages").read_text()):
            if (each["Package"], each["Version"]) == (package, version):
                return each
        raise LabError(f"Debian's {self.name} has no {package} {version}")

    def _fetch(self, entry: Packages, folder: Path) -> Path:
        path, size, content = entry["Filename"], int(entry["Size"]), entry["SHA256"]
        file = folder / Path(path).name

        def read(url: str) -> Path:
            try:
                with file.open("wb") as opened:
                    _check(url, _copy(url, opened, size), size, content)
            except BaseException as error:
                file.unlink(missing_ok=True)
                if isinstance(error, OSError) and error.filename is None and error.errno:
                    raise LabError(f"{file} cannot be written: {error.strerror}") from None
                raise
            return file

        return _of_any([f"{mirror}/{quote(path)}" for mirror in mirrors()], read, path)

    def _index(self) -> str:
        """The whole index of the suite, checked. LabError where it is not what it should be."""

        def read(url: str) -> str:
            return self._index_of(url, signature.verified(_read(url, _MOST_INRELEASE), url))

        return _of_any(
            [f"{mirror}/dists/{self.name}/InRelease" for mirror in mirrors()], read, f"suite {self.name}"
        )

    def _index_of(self, url: str, signed: bytes) -> str:
        release = Release(signed)
        if self.name not in (release.get("Suite"), release.get("Codename")):
            raise LabError(
                f"{url} is of another suite, {release.get('Codename') or 'which it does not name'}"
            )
        listed = next((each for each in release.get("SHA256", []) if each["name"] == _INDEX), None)
        if listed is None:
            raise LabError(f"{url} lists no {_INDEX}")
        size, content = int(listed["size"]), listed["sha256"]
        base = url.removesuffix("InRelease")
        # By its hash an index is there also while the mirror is being renewed.
        by_hash = f"{base}{_INDEX.rpartition('/')[0]}/by-hash/SHA256/{content}"
        address = by_hash if release.get("Acquire-By-Hash") == "yes" else base + _INDEX
        packed = _read(address, size + 1)
        _check(address, (len(packed), sha256(packed).hexdigest()), size, content)
        return lzma.decompress(packed).decode(errors="replace")


def of_sources() -> list[str]:
    """The archives of Debian's that this machine's sources for apt name, in their order."""
    files = [_SOURCES[0], *sorted(_SOURCES[1].glob("*"))]
    found = []
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found += [url for line in lines if not line.startswith("#") for url in _ARCHIVE.findall(line)]
    return found


def _kept(index: str) -> str:
    """The paragraphs of an index that may be needed."""
    wanted = [each for each in index.split("\n\n") if _KEPT.match(each.strip().removeprefix("Package: "))]
    return "\n\n".join(each.strip() for each in wanted) + "\n"


def _paragraphs(index: str) -> list[Packages]:
    return list(Packages.iter_paragraphs(index, use_apt_pkg=False))


def _of_any(urls: list[str], read: Callable[[str], _T], what: str) -> _T:
    """What is read of the first mirror that has it. LabError where none has."""
    for url in urls:
        try:
            return read(url)
        except _MissingError:
            continue
    raise LabError(f"{', '.join(mirrors())}: there is no {what}")


def _check(url: str, found: tuple[int, str], size: int, content: str) -> None:
    """LabError when what came from `url`, by size and hash, is not what a signed list says."""
    if found[0] < size:
        raise LabError(f"{url} is cut off: {found[0]} of {size} bytes")
    if found != (size, content):
        raise LabError(f"{url} is not what the mirror's signed index lists: another SHA256")


def _read(url: str, most: int) -> bytes:
    with tempfile.TemporaryFile() as file:
        _copy(url, file, most)
        file.seek(0)
        return file.read()


def _copy(url: str, file: IO[bytes], most: int) -> tuple[int, str]:
    """Copy what is at `url`, at most so many bytes and one, into a file; how many they are, and their SHA256.

    What was lost on the way is tried again. NoAnswerError when the mirror does not answer.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return _copy_once(url, file, most)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise _MissingError(url) from None
            raise LabError(f"{url}: {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, FileNotFoundError) or url.startswith("file:"):
                raise _MissingError(url) from None
            if attempt == _TRIES:
                raise NoAnswerError(f"the mirror does not answer: {url}: {reason}") from None
            time.sleep(_PAUSE_S)
    raise AssertionError("unreachable")


def _copy_once(url: str, file: IO[bytes], most: int) -> tuple[int, str]:
    content, size = sha256(), 0
    file.seek(0)
    file.truncate()
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        while size <= most and (piece := answer.read(_PIECE)):
            file.write(piece)
            content.update(piece)
            size += len(piece)
    return size, content.hexdigest()
