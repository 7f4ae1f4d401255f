# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own KVM selftests, out of the source of a kernel of Debian's, to build a test among them."""

import shutil
import subprocess
from pathlib import Path

from kvmharness.lab import cache
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, packages
from kvmharness.lab.kernels.packages import KernelPackage
from tests.limits import GIVE_UP_S

# What a selftest is built from, out of the whole source.
_PARTS = (
    *("tools/testing/selftests/kvm", "tools/testing/selftests/lib.mk", "tools/testing/selftests/kselftest.h"),
    *(
        "tools/testing/selftests/kselftest_harness.h",
        "tools/testing/selftests/rseq",
        "tools/include",
        "tools/build",
        "tools/lib",
    ),
    *("tools/arch/x86/include", "tools/scripts", "scripts/subarch.include"),
)


_KUNIT = ("tools/testing/kunit/kunit_parser.py", "tools/testing/kunit/kunit_printer.py")


def ktap_parser(prefix: str) -> Path:
    """The folder with the kernel's own parser of KTAP (kunit_parser.py); it is kept in the cache."""
    package = packages.matching(prefix, archive.offered())
    if package is None:
        raise LabError(f"the mirror has no kernel {prefix}")
    place = cache.root() / "selftests" / f"kunit-{prefix}_{package.version}"
    source = f"linux-source-{prefix}"
    kept = cache.published(place, lambda folder: _unpack(package, source, folder, _KUNIT))
    return kept / "tools/testing/kunit"


def tree(prefix: str) -> Path:
    """The folder of a kernel's source that holds its selftests; it is kept in the cache."""
    package = packages.matching(prefix, archive.offered())
    if package is None:
        raise LabError(f"the mirror has no kernel {prefix}")
    place = cache.root() / "selftests" / f"{prefix}_{package.version}"
    return cache.published(place, lambda folder: _unpack(package, f"linux-source-{prefix}", folder))


def _unpack(package: KernelPackage, source: str, folder: Path, parts: tuple[str, ...] = _PARTS) -> None:
    (deb,) = archive.fetched(package.suite, {source: package.version}, folder)
    outer = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    inner = ["tar", "--extract", "--to-stdout", "--wildcards", f"*/{source}.tar.xz"]
    members = [f"{source}/{part}" for part in parts]
    last = ["tar", "--extract", "--xz", "--strip-components=1", f"--directory={folder}", *members]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(outer, stdout=pipe) as first,
        subprocess.Popen(inner, stdin=first.stdout, stdout=pipe, stderr=subprocess.DEVNULL) as second,
    ):
        subprocess.run(last, stdin=second.stdout, check=True)
    deb.unlink()


def build(selftests: Path, name: str, code: str, into: Path) -> Path:
    """A test built by the kernel's own Makefile, as a static program."""
    source = into / "linux"
    shutil.copytree(selftests, source, dirs_exist_ok=True)
    kvm = source / "tools/testing/selftests/kvm"
    folder = "x86_64" if (kvm / "x86_64").is_dir() else "x86"
    (kvm / folder / f"{name}.c").write_text(code)
    only = [f"{each}={folder}/{name}" for each in ("TEST_GEN_PROGS_x86_64", "TEST_GEN_PROGS_x86")]
    only += [
        f"{each}="
        for each in ("TEST_GEN_PROGS_EXTENDED_x86_64", "TEST_PROGS_x86_64", "TEST_GEN_PROGS_COMMON")
    ]
    command = [
        "make",
        "-j2",
        "-C",
        str(kvm),
        f"OUTPUT={into}",
        "CC=gcc -static",
        *only,
        f"{into}/{folder}/{name}",
    ]
    (into / folder).mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIVE_UP_S)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return into / folder / name
