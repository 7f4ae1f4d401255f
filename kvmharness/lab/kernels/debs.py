# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels in Debian packages that lie on a disk, unpacked without installing anything."""

import gzip
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import zstandard
from debian.arfile import ArError, ArFile
from debian.deb822 import Deb822
from zstandard import ZstdError

from kvmharness.lab.distribution import install
from kvmharness.lab.errors import LabError

_MAGIC = b"!<arch>\n"
_ARCHITECTURE = "amd64"
# A kernel may be one package, or several that are of one release and version.
_PACKAGE = re.compile(r"linux-(image|binary|modules)(-extra)?(-unsigned)?-(?P<release>\d\S*?)(-unsigned)?")
_PIECE = 1 << 20
# How a package's archives are compressed (deb(5)).
_OPENS: dict[str, Callable[[IO[bytes]], object]] = {
    ".tar": lambda packed: packed,
    ".gz": lambda packed: gzip.GzipFile(fileobj=packed),
    ".xz": lzma.LZMAFile,
    ".zst": lambda packed: zstandard.ZstdDecompressor().stream_reader(packed),
}


@dataclass(frozen=True, slots=True)
class Package:
    """What a package says of itself; `release` is that of the kernel it is of, "" where it names none."""

    name: str
    version: str
    release: str


def is_deb(path: Path) -> bool:
    """Whether a path means a package: by its name, or by how it begins."""
    if path.suffix == ".deb":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def package(deb: Path) -> Package:
    """What a .deb holds. LabError for a file that is no package, or one for other machines."""
    if not deb.is_file():
        raise LabError("no such file" if not deb.exists() else "not a file")
    fields = Deb822(_control(deb))
    if fields.get("Architecture", _ARCHITECTURE) not in (_ARCHITECTURE, "all"):
        raise LabError(f"a package for {fields['Architecture']}: the lab's machines are x86-64")
    name = fields.get("Package", "")
    match = _PACKAGE.fullmatch(name)
    return Package(name, fields.get("Version", ""), match["release"] if match else "")


def _control(deb: Path) -> bytes:
    with content(deb, "control") as data, tarfile.open(fileobj=data, mode="r|") as files:
        for each in files:
            file = files.extractfile(each) if Path(each.name).name == "control" else None
            if file:
                return file.read()
    raise LabError(f"{deb} does not unpack: there is no control file in it")


def with_siblings(deb: Path) -> list[Path]:
    """The .debs that hold the kernel of `deb`: itself, and those beside it of the same release and version.

    LabError for a package that is broken.
    """
    asked = package(deb)
    found = [deb]
    if asked.release:
        for other in sorted(deb.parent.glob(f"linux-*{_escaped(asked.release)}*.deb")):
            named = _PACKAGE.fullmatch(other.name.split("_")[0])
            if other != deb and named and named["release"] == asked.release:
                beside = package(other)
                if (beside.release, beside.version) == (asked.release, asked.version):
                    found.append(other)
    return found


def unpack(debs: Iterable[Path], tree: Path) -> None:
    """Unpack packages into `tree`. LabError for one that is broken."""
    tree.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        with content(deb) as data:
            _extract(deb, data, tree)


def unpack_archive(deb: Path, name: str, members: Sequence[str], tree: Path) -> None:
    """Unpack `members` of an archive NAME.tar.xz in a package into `tree`, without its first folder.

    LabError for a package that is broken, or has no such archive.
    """
    tree.mkdir(parents=True, exist_ok=True)
    with content(deb) as data, _complaining(deb), tarfile.open(fileobj=data, mode="r|") as outer:
        inner = next((each for each in outer if each.name.endswith(f"/{name}.tar.xz")), None)
        packed = outer.extractfile(inner) if inner else None
        if packed is None:
            raise LabError(f"{deb} does not unpack: there is no {name}.tar.xz in it")
        with lzma.open(packed) as unpacked:
            _extract(deb, unpacked, tree, "--strip-components=1", *members)


@contextmanager
def content(deb: Path, part: str = "data") -> Iterator[IO[bytes]]:
    """The archive in a package with its files, or that with its "control". LabError for a broken one."""
    with _complaining(deb), ExitStack() as stack:
        package = ArFile(str(deb))
        # ar(5): a head of 60 bytes before each member, which begins at an even place.
        whole = len(_MAGIC) + sum(60 + each.size + each.size % 2 for each in package.getmembers())
        if deb.stat().st_size < whole - 1:
            raise LabError(f"{deb} does not unpack: it is cut off")
        name = next((each for each in package.getnames() if each.startswith(f"{part}.tar")), None)
        if name is None:
            raise LabError(f"{deb} does not unpack: there is no {part}.tar in it")
        packed = cast(IO[bytes], package.getmember(name))
        stack.callback(packed.close)
        opens = _OPENS.get(Path(name).suffix)
        if opens is None:
            raise LabError(f"{deb} does not unpack: {name} is compressed in a way not known here")
        yield cast(IO[bytes], opens(packed))


def _extract(deb: Path, data: IO[bytes], tree: Path, *arguments: str) -> None:
    """Have tar, which lets nothing out of `tree`, unpack what can be read of `data`."""
    if shutil.which("tar") is None:
        raise LabError(f"there is no tar on this machine to unpack packages with: {install('tar')}")
    command = ["tar", "--extract", "--file=-", "--no-same-owner", f"--directory={tree}", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C.UTF-8"}
    ) as tar:
        assert tar.stdin is not None
        assert tar.stderr is not None
        try:
            with suppress(BrokenPipeError), _complaining(deb):  # what tar dislikes it says itself
                shutil.copyfileobj(data, tar.stdin, _PIECE)
        except BaseException:
            tar.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                tar.stdin.close()
        complaint = tar.stderr.read().decode(errors="replace")
    if tar.returncode:
        raise _broken(deb, (complaint.splitlines() or ["tar gives no reason"])[0])


@contextmanager
def _complaining(deb: Path) -> Iterator[None]:
    """LabError for whatever the readers of a broken package's layers raise."""
    try:
        yield
    except (ArError, EOFError, ValueError, lzma.LZMAError, tarfile.TarError, zlib.error, ZstdError) as error:
        raise _broken(deb, str(error)) from None
    except OSError as error:
        if error.errno:
            raise
        raise _broken(deb, str(error)) from None


def _broken(deb: Path, reason: str) -> LabError:
    return LabError(f"{deb} does not unpack: {reason or 'no reason given'}")


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)
