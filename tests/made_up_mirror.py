# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror of Debian's in a folder, with one kernel in one suite, signed by a key of its own."""

import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.made_up_kernels import RELEASE, bzimage, kernel_image, put, put_modules

SUITE = "bookworm"
PACKAGE, VERSION = f"linux-image-{RELEASE}-cloud-amd64", "6.18-1"
KERNEL = f"{RELEASE}-cloud-amd64"
INDEX = "main/binary-amd64/Packages.xz"


def ar(*members: tuple[str, bytes]) -> bytes:
    """An archive as ar makes it (ar(5))."""
    packed = b"!<arch>\n"
    for name, content in members:
        head = f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        packed += head.encode() + content + b"\n" * (len(content) % 2)
    return packed


def tar(root: Path) -> bytes:
    """An archive of what is below a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(root, ".")
    return file.getvalue()


def deb(control: str, root: Path) -> bytes:
    """A package with these fields, that holds what is below `root`."""
    fields = put(root.parent / f"{root.name}-control/control", control).parent
    return ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", gzip.compress(tar(fields))),
        ("data.tar.xz", lzma.compress(tar(root))),
    )


@dataclass(frozen=True, slots=True)
class Key:
    """A key for signing, in a folder of its own, and the keyring with its public part."""

    home: Path
    keyring: Path

    @classmethod
    def made(cls, home: Path) -> "Key":
        """A new one."""
        home.mkdir(mode=0o700)
        key = cls(home, home / "keyring.gpg")
        key.gpg(
            "--passphrase", "", "--quick-gen-key", "Somebody <me@example.org>", "ed25519", "sign", "never"
        )
        key.gpg("--output", str(key.keyring), "--export")
        return key

    def gpg(self, *arguments: str) -> None:
        """Run gpg on it."""
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def forget(self) -> None:
        """End the agent that gpg left running."""
        command = ["gpgconf", "--homedir", str(self.home), "--kill", "all"]
        subprocess.run(command, check=True, capture_output=True)

    def sign(self, content: bytes, file: Path) -> None:
        """Have a file hold the content, signed in the clear."""
        plain = self.home / "plain"
        plain.write_bytes(content)
        self.gpg("--output", str(file), "--clearsign", str(plain))


@dataclass(frozen=True, slots=True)
class Mirror:
    """What is on it, by path below `root`; `root` is also called by a URL."""

    root: Path
    key: Key

    @property
    def url(self) -> str:
        """Its name."""
        return self.root.as_uri()

    @property
    def in_release(self) -> Path:
        """The suite's signed list."""
        return self.root / "dists" / SUITE / "InRelease"

    @property
    def index(self) -> Path:
        """The suite's index."""
        return self.in_release.parent / INDEX

    @property
    def deb(self) -> Path:
        """The kernel's package."""
        return self.root / f"pool/{PACKAGE}.deb"

    def fill(self, scratch: Path) -> None:
        """Put a kernel there."""
        put(scratch / f"boot/vmlinuz-{KERNEL}", bzimage(kernel_image(KERNEL), KERNEL))
        put_modules(scratch / f"lib/modules/{KERNEL}", release=KERNEL)
        control = f"Package: {PACKAGE}\nVersion: {VERSION}\nArchitecture: amd64\nDepends: kmod, a | b\n"
        put(self.deb, deb(control, scratch))
        shutil.rmtree(scratch)
        packed = self.deb.read_bytes()
        others = "Package: bash\nVersion: 5\n\n"
        entry = f"{control}Filename: pool/{self.deb.name}\nSize: {len(packed)}\nSHA256: {digest(packed)}\n"
        put(self.index, lzma.compress((others + entry).encode()))
        self.sign()

    def sign(self, more: str = "", suite: str = SUITE) -> None:
        """List the index and sign the list."""
        index = self.index.read_bytes()
        listed = f"SHA256:\n {digest(index)} {len(index)} {INDEX}\n"
        text = f"Origin: Debian\nSuite: oldstable\nCodename: {suite}\n{more}{listed}"
        self.key.sign(text.encode(), self.in_release)


def digest(content: bytes) -> str:
    """SHA256, in hexadecimal digits."""
    return sha256(content).hexdigest()
