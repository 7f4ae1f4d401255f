# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lab run is put together from, without booting anything."""

import bz2
import gzip
import json
import lzma
import marshal
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

import lz4.block
import pytest
import zstandard
from debian.deb822 import Packages
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.lab import apt, cache, image, kernels, machine, modules, play, suites, vmlinux, wire
from kvmharness.lab.apt import KernelPackage
from kvmharness.lab.cpio import Archive
from kvmharness.lab.errors import LabError
from kvmharness.scenarios import SCENARIOS

KERNEL = b"\x7fELF" + bytes(range(256)) * 400


def lz4_legacy(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(packed)) + packed


def bzimage(payload: bytes) -> bytes:
    """A boot sector, one setup sector, four bytes of stub, the payload and its uncompressed size."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    payload += struct.pack("<I", len(KERNEL))
    setup[0x248:0x250] = struct.pack("<II", 4, len(payload))
    return bytes(setup) + b"stub" + payload


@pytest.mark.parametrize(
    "payload",
    [
        lz4_legacy(KERNEL),
        zstandard.ZstdCompressor().compress(KERNEL),
        gzip.compress(KERNEL),
        lzma.compress(KERNEL),
        lzma.compress(KERNEL, format=lzma.FORMAT_ALONE),
        bz2.compress(KERNEL),
    ],
    ids=["lz4", "zstd", "gzip", "xz", "lzma", "bzip2"],
)
def test_a_kernel_is_taken_out_of_its_bzimage(payload: bytes) -> None:
    assert vmlinux.extract(bzimage(payload)) == KERNEL


def test_an_elf_kernel_is_taken_as_it_is() -> None:
    assert vmlinux.extract(KERNEL) == KERNEL


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (b"", "no boot header"),
        (bytes(5000), "no boot header"),
        (bzimage(gzip.compress(KERNEL))[:-100], "cut off"),
        (bzimage(b"abcdefgh"), "compressed in a way not known"),
        (bzimage(gzip.compress(KERNEL)[:50]), "does not decompress"),
        (bzimage(gzip.compress(b"not an ELF file")), "does not hold an ELF kernel"),
        (bzimage(b"\x28\xb5\x2f\xfd" + bytes(50)), "does not"),
        (bzimage(b"\x02\x21\x4c\x18\xff\xff\x00\x00" + bytes(50)), "does not"),
    ],
)
def test_a_broken_image_is_refused_with_the_reason(broken: bytes, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        vmlinux.extract(broken)


def test_an_archive_holds_its_files_the_way_the_kernel_unpacks_them() -> None:
    archive = Archive()
    archive.add_file("/a/b", b"hello", 0o755)
    archive.add_device("/dev/console", 5, 1)
    data = bytes(archive)
    names, place = {}, 0
    while True:
        assert data[place : place + 6] == b"070701"
        fields = [int(data[place + 6 + 8 * k : place + 14 + 8 * k], 16) for k in range(13)]
        name = data[place + 110 : place + 110 + fields[11] - 1].decode()
        content_at = (place + 110 + fields[11] + 3) // 4 * 4
        content = data[content_at : content_at + fields[6]]
        if name == "TRAILER!!!":
            break
        names[name] = (fields[1], content, (fields[9], fields[10]))
        place = (content_at + fields[6] + 3) // 4 * 4
    assert names == {
        "a": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "a/b": (stat.S_IFREG | 0o755, b"hello", (0, 0)),
        "dev": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "dev/console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
    }
    assert len(data) % 4 == 0


def test_a_signature_is_taken_off_a_module() -> None:
    trailer = bytes(8) + struct.pack(">I", 5) + b"~Module signature appended~\n"
    assert modules.without_signature(b"module" + b"12345" + trailer) == b"module"
    assert modules.without_signature(b"module") == b"module"


def test_modules_are_found_by_the_names_the_kernel_uses(tmp_path: Path) -> None:
    for name in ("kvm-amd.ko.xz", "kvm.ko", "irqbypass.ko.zst", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert sorted(modules.find(tmp_path)) == ["irqbypass", "kvm", "kvm_amd"]


def test_a_module_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no module kvm_amd"):
        modules.load_order("kvm_amd", {})
    for name, complaint in (("kvm.ko.xz", "kvm.ko.xz does not decompress"), ("kvm.ko", "not an ELF file")):
        (tmp_path / name).write_bytes(b"garbage")
        with pytest.raises(LabError, match=complaint):
            modules.load_order("kvm", {"kvm": tmp_path / name})


PACKAGES = [
    KernelPackage("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1", "6.1.0-9-cloud-amd64"),
    KernelPackage("linux-image-6.1.0-10-cloud-amd64", "6.1.38-1", "6.1.0-10-cloud-amd64"),
    KernelPackage("linux-image-6.12.9+deb12-cloud-amd64", "6.12.9-1~deb12u1", "6.12.9+deb12-cloud-amd64"),
]


@pytest.mark.parametrize(
    ("prefix", "version"),
    [
        ("6.1", "6.1.38-1"),
        ("6.12", "6.12.9-1~deb12u1"),
        ("6", "6.12.9-1~deb12u1"),
        ("6.1.27", "6.1.27-1"),
        ("6.1.0-9", "6.1.27-1"),
        ("6.12.9+deb12", "6.12.9-1~deb12u1"),
        ("6.2", None),
        ("6.1.2", None),
    ],
)
def test_a_version_means_the_newest_that_begins_with_its_parts(prefix: str, version: str | None) -> None:
    found = apt.matching(prefix, PACKAGES)
    assert (found and found.version) == version


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[KernelPackage]]:
    """A mirror of this test's own: what the machine's sources ("") and each suite offer, by its name."""
    there: dict[str, list[KernelPackage]] = {"": PACKAGES}
    monkeypatch.setattr(apt, "offered", lambda refresh=False: there[""])
    monkeypatch.setattr(suites, "offered", lambda suite, refresh=False: (there.get(suite, []), []))
    return there


Mirror = dict[str, list[KernelPackage]]


def test_an_unknown_kernel_is_answered_with_what_there_is(mirror: Mirror) -> None:
    mirror["sid"] = [KernelPackage("linux-image-7.2.1-cloud-amd64", "7.2.1-1", "7.2.1-cloud-amd64")]
    with pytest.raises(
        LabError, match=r"unknown kernel 'debian:6\.2': .* offers debian:6\.12, .*debian:7\.2"
    ):
        kernels.find("debian:6.2")
    with pytest.raises(LabError, match="name it debian:VERSION"):
        kernels.find("6.1")
    with pytest.raises(LabError, match=r"or debian:SUITE, which is one of bullseye, .*experimental"):
        kernels.find("debian:bullsey")


def test_a_suite_that_cannot_be_asked_is_named_when_a_kernel_is_unknown(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "offered", lambda suite, refresh=False: ([], [f"{suite}: no key"]))
    with pytest.raises(LabError, match=r"unknown kernel 'debian:7\.2': .*; not asked: bullseye: no key$"):
        kernels.find("debian:7.2")
    with pytest.raises(LabError, match=r"no kernel 'debian:sid': sid: no key$"):
        kernels.find("debian:sid")


def test_the_machines_own_sources_come_before_the_other_suites(mirror: Mirror) -> None:
    newer = KernelPackage("linux-image-6.1.0-99-cloud-amd64", "6.1.99-1", "6.1.0-99-cloud-amd64")
    mirror["bookworm"] = [newer]
    assert kernels._of_version("debian:6.1", "6.1").version == "6.1.38-1"
    assert kernels._of_version("debian:6.1.99", "6.1.99") == newer


def test_a_suites_name_means_the_kernel_it_installs(mirror: Mirror) -> None:
    old = KernelPackage("linux-image-5.10.0-1-cloud-amd64", "5.10.1-1", "5.10.0-1-cloud-amd64", usual=True)
    mirror["bullseye"] = [
        old,
        KernelPackage("linux-image-6.1.0-1-cloud-amd64", "6.1.1-1", "6.1.0-1-cloud-amd64"),
    ]
    assert kernels._of_suite("debian:bullseye", "bullseye") == old


INDEX = """\
Package: linux-image-cloud-amd64
Version: 7.2.13-1
Depends: linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: linux-image-7.2-cloud-amd64
Version: 7.2.13-1
Depends: linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: linux-image-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1
Depends: dracut | linux-initramfs-tool, linux-modules-7.2.13+deb14-cloud-amd64 (= 7.2.13-1),
 linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)

Package: linux-modules-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1

Package: linux-binary-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1

Package: linux-image-7.1.8+deb14-cloud-amd64
Version: 7.1.8-1
Depends: linux-binary-7.1.8+deb14-cloud-amd64 (= 7.1.8-1), linux-modules-7.1.8+deb14-cloud-amd64 (= 7.1.8-1)

Package: linux-binary-7.1.8+deb14-cloud-amd64
Version: 7.1.8-1

Package: linux-image-6.12.9+deb12-cloud-amd64
Version: 6.12.9-1
Depends: kmod
"""


def test_a_kernel_is_offered_with_its_parts_and_not_without_one_of_them() -> None:
    found = apt._kernels(list(Packages.iter_paragraphs(INDEX, use_apt_pkg=False)), "sid")
    assert found == [
        KernelPackage(
            "linux-image-6.12.9+deb12-cloud-amd64", "6.12.9-1", "6.12.9+deb12-cloud-amd64", suite="sid"
        ),
        KernelPackage(
            "linux-image-7.2.13+deb14-cloud-amd64",
            "7.2.13-1",
            "7.2.13+deb14-cloud-amd64",
            ("linux-binary-7.2.13+deb14-cloud-amd64", "linux-modules-7.2.13+deb14-cloud-amd64"),
            True,
            "sid",
        ),
    ]


@pytest.mark.parametrize(
    ("said", "complaint", "kind"),
    [
        (
            "W: GPG error: ... not available: NO_PUBKEY 0E98404D\nE: The repository is not signed.",
            "apt-get update: the keyrings here lack the mirror's key 0E98404D: install a newer debian-arch",
            LabError,
        ),
        (
            "E: Failed to fetch http://mirror/InRelease  Temporary failure resolving 'mirror'",
            "apt-get update: Failed to fetch http://mirror/InRelease",
            apt.NoAnswerError,
        ),
        ("E: Failed to fetch http://mirror/Packages  404  Not Found", "404 ", LabError),
        ("", "apt-get update: failed without a word", LabError),
    ],
)
def test_apt_complains_in_one_line(said: str, complaint: str, kind: type[LabError]) -> None:
    error = apt._error("apt-get update", said)
    assert complaint in str(error)
    assert "\n" not in str(error)
    assert type(error) is kind


def test_a_kernel_kept_in_another_format_is_unpacked_again(
    mirror: Mirror, cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []

    def build(package: KernelPackage, folder: Path) -> None:
        builds.append(package.version)
        (folder / "kernel.json").write_text(
            json.dumps({"format": kernels._FORMAT, "release": "r", "load_order": {}, "sizes": {}})
        )

    monkeypatch.setattr(kernels, "_build", build)
    place = kernels.find("debian:6.1").folder
    kernels.find("debian:6.1")
    assert builds == ["6.1.38-1"]
    (place / "kernel.json").write_text('{"format": 0}')
    kernels.find("debian:6.1")
    assert builds == ["6.1.38-1", "6.1.38-1"]
    # What was kept before formats had numbers is of the first one.
    (place / "kernel.json").write_text('{"release": "r", "load_order": {}, "sizes": {}}')
    kernels.find("debian:6.1")
    assert len(builds) == 2


def test_what_is_built_for_the_cache_is_there_whole_or_not_at_all(cache_root: Path) -> None:
    place = cache.root() / "images" / "thing"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise LabError("no luck")

    with pytest.raises(LabError, match="no luck"):
        cache.published(place, fail)
    assert [path.name for path in place.parent.iterdir()] == ["lock"]
    (place.parent / "building-of-a-dead-process").mkdir()
    cache.published(place, lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in place.parent.iterdir()) == ["lock", "thing"]


def test_a_cache_that_cannot_be_written_is_explained(cache_root: Path) -> None:
    cache_root.parent.joinpath("kvmharness").write_text("a file where a folder should be")
    with pytest.raises(LabError, match="cannot be used: "):
        cache.published(cache.root() / "images" / "thing", lambda folder: None)


def test_a_damaged_kernel_in_the_cache_is_noticed(cache_root: Path) -> None:
    (cache_root / "vmlinux").parent.mkdir(parents=True, exist_ok=True)
    (cache_root / "vmlinux").write_bytes(b"12345")
    description = {"release": "r", "load_order": {}, "sizes": {"vmlinux": 6}}
    (cache_root / "kernel.json").write_text(json.dumps(description))
    with pytest.raises(LabError, match="was damaged"):
        kernels._load("debian:6.1", cache_root)
    description |= {"sizes": {"vmlinux": 5}, "unchanged": {"vmlinux": kernels._mark(cache_root / "vmlinux")}}
    (cache_root / "kernel.json").write_text(json.dumps(description))
    assert kernels._load("debian:6.1", cache_root).release == "r"
    (cache_root / "vmlinux").write_bytes(b"12340")
    with pytest.raises(LabError, match="was damaged"):
        kernels._load("debian:6.1", cache_root)
    (cache_root / "kernel.json").write_text("{")
    with pytest.raises(LabError, match="not what it was"):
        kernels._load("debian:6.1", cache_root)


def test_a_kernel_without_the_vendor_module_is_refused(tmp_path: Path) -> None:
    kernel = kernels.Kernel("debian:6.1", "6.1.0", tmp_path, {"kvm_intel": []})
    with pytest.raises(LabError, match=r"debian:6\.1 \(6\.1\.0\) has no module kvm_amd"):
        kernel.modules_for("kvm_amd")


RESULT = wire.encode("job", ["probe", "6.1", [1, 2]]) + wire.encode("job", wire.END)


def test_a_whole_result_is_read() -> None:
    assert wire.decode("job", RESULT) == [["probe", "6.1", [1, 2]]]


def test_no_part_of_a_result_passes_for_the_whole() -> None:
    for end in range(len(RESULT)):
        with pytest.raises(wire.BrokenResultError):
            wire.decode("job", RESULT[:end])


@given(st.integers(0, len(RESULT) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(place: int, change: int) -> None:
    damaged = bytearray(RESULT)
    damaged[place] ^= change
    with pytest.raises(wire.BrokenResultError):
        wire.decode("job", bytes(damaged))


def test_another_jobs_result_is_not_this_ones() -> None:
    with pytest.raises(wire.BrokenResultError, match="damaged"):
        wire.decode("other", RESULT)


def boot(status: int | None, results: bytes = RESULT, console: str = "hello\n") -> machine.Boot:
    return machine.Boot(status, console, results, 1.0)


@pytest.mark.parametrize("fault", ["BUG: soft lockup - CPU#0 stuck", "Oops: 0002 [#1] PREEMPT SMP"])
def test_a_whole_result_of_a_kernel_that_reported_a_fault_does_not_count(fault: str) -> None:
    with pytest.raises(wire.BrokenResultError, match=re.escape(fault)):
        play._read("job", boot(machine.FINISHED, console=f"[ 1.0] {fault}\n"))


@pytest.mark.parametrize(
    ("status", "complaint"),
    [
        (None, "the machine hung"),
        (0, "rebooted or panicked"),
        (-9, "killed by signal 9"),
        (1, "ended with status 1"),
        (machine.NO_MODULE, "a module did not load"),
        (machine.NOT_STARTED, "could not be started"),
        (machine.FAILED, "the player failed"),
    ],
)
def test_a_whole_result_of_a_machine_that_ended_badly_does_not_count(
    status: int | None, complaint: str
) -> None:
    with pytest.raises(wire.BrokenResultError, match=complaint):
        play._read("job", boot(status))


def test_a_good_end_without_a_whole_result_does_not_count() -> None:
    with pytest.raises(wire.BrokenResultError, match="no end mark after 0 bytes"):
        play._read("job", boot(machine.FINISHED, b""))
    with pytest.raises(wire.BrokenResultError, match="makes no sense"):
        play._read("job", boot(machine.FINISHED))


def test_equal_jobs_are_equal_to_the_byte() -> None:
    scenarios = list(SCENARIOS.values())
    assert play.job_for(scenarios) == play.job_for(scenarios)
    number, content = play.job_for(scenarios)
    assert marshal.loads(content)[0] == number
    assert play.job_for(scenarios[:1])[0] != number


def test_what_runs_inside_loads_nothing_slow() -> None:
    path = image._import_path()
    code = f"import sys; sys.path[:0] = {path!r}; import kvmharness.lab.guest; print(*sys.modules)"
    command = [str(image._interpreter()), "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "kvmharness.player" in loaded
    assert loaded & {"typing", "dataclasses", "enum", "re", "json", "collections", "inspect"} == set()


def test_a_missing_emulator_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LabError, match="machine amd needs qemu-system-x86_64: install qemu-system-x86"):
        machine.check_emulator(machine.AMD)


def test_amd_unstable_is_amd_but_for_the_kernels_trust_in_its_tsc() -> None:
    assert machine.AMD_UNSTABLE.emulator == machine.AMD.emulator
    assert machine.AMD_UNSTABLE.kernel_options == machine.AMD.kernel_options.replace(
        "tsc=reliable", "tsc=unstable"
    )


def test_every_machine_is_listed_under_its_own_name() -> None:
    assert {name: each.name for name, each in machine.MACHINES.items()} == {
        name: name for name in ("amd", "amd-smp", "amd-unstable", "intel")
    }


def test_a_module_file_compiles_to_bytecode_the_interpreter_takes(tmp_path: Path) -> None:
    source = tmp_path / "thing.py"
    source.write_text("print('hello')")
    compiled = tmp_path / "alone" / "thing.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(image._compiled(source))
    code = f"import sys; sys.path.insert(0, {str(compiled.parent)!r}); import thing"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "hello\n"
