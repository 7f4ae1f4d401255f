# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels straight from a mirror, where there is no apt: what is taken, and what is not."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kvmharness.lab import kernels
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import archive, mirror, signature
from kvmharness.lab.kernels.packages import NoAnswerError
from tests.command_line import Capture, one_line, status_of
from tests.made_up_distribution import on_distribution
from tests.made_up_kernels import put
from tests.made_up_mirror import INDEX, KERNEL, PACKAGE, SUITE, VERSION, Key, Mirror, digest


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    """A key to sign with."""
    for program in ("gpg", "gpgv"):
        if shutil.which(program) is None:
            pytest.skip(f"missing capability {program}")
    made = Key.made(tmp_path_factory.mktemp("key") / "home")
    yield made
    made.forget()


@pytest.fixture
def there(key: Key, tmp_path: Path, cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror with one kernel, which this machine is told of."""
    made = Mirror(tmp_path / "debian", key)
    made.fill(tmp_path / "scratch")
    monkeypatch.setenv(mirror.MIRROR, made.url)
    monkeypatch.setenv(signature.KEYRING, str(key.keyring))
    return made


@pytest.mark.parametrize("spec", ["debian:bookworm", "debian:6.18", "debian:6.18-1"])
@pytest.mark.usefixtures("there")
def test_a_kernel_is_fetched_from_a_mirror_and_unpacked_without_apt_and_dpkg(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("gpgv", "tar"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / program).symlink_to(shutil.which(program) or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    kernel = kernels.find(spec)
    assert kernel.release == KERNEL
    assert list(kernel.load_order) == ["kvm_amd"]
    package = kernels.package_of(spec)
    assert package is not None
    assert (package.package, package.version, package.suite) == (PACKAGE, VERSION, SUITE)
    assert kernels.find(spec, offline=True).folder == kernel.folder


def test_a_mirror_is_asked_over_http_and_an_index_by_its_hash(
    there: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.sign("Acquire-By-Hash: yes\n")
    content = there.index.read_bytes()
    there.index.unlink()
    put(there.index.parent / "by-hash/SHA256" / digest(content), content)
    handler = partial(SimpleHTTPRequestHandler, directory=str(there.root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv(mirror.MIRROR, f"http://127.0.0.1:{server.server_port}/")
        try:
            assert kernels.find("debian:bookworm").release == KERNEL
            with pytest.raises(LabError, match="there is no suite sid"):
                mirror.Suite("sid").offered()
        finally:
            server.shutdown()
            thread.join()


def test_of_several_mirrors_the_first_that_has_the_suite_is_asked(
    there: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mirror.MIRROR, f"{(tmp_path / 'nothing').as_uri()} {there.url}")
    assert [each.release for each in mirror.Suite(SUITE).offered()] == [KERNEL]


def test_what_a_package_needs_is_in_the_index(there: Mirror) -> None:
    assert archive.needed_by(SUITE, PACKAGE, VERSION) == ["kmod", "a"]
    with pytest.raises(LabError, match=f"Debian's {SUITE} has no {PACKAGE} 7"):
        archive.needed_by(SUITE, PACKAGE, "7")


def changed(file: Path) -> None:
    """Another byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    """A file without its end."""
    file.write_bytes(file.read_bytes()[:-100])


def unsigned(of: Mirror) -> None:
    of.in_release.write_text(f"Codename: {SUITE}\nSHA256:\n")


def signed_by_another(of: Mirror) -> None:
    other = Key.made(of.root.parent / "other")
    Mirror(of.root, other).sign()
    other.forget()


def changed_list(of: Mirror) -> None:
    of.in_release.write_text(of.in_release.read_text().replace("Origin: Debian", "Origin: debian"))


def without_an_index(of: Mirror) -> None:
    of.key.sign(f"Codename: {SUITE}\nSHA256:\n 0 0 main/binary-arm64/Packages.xz\n".encode(), of.in_release)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (unsigned, "InRelease is not signed"),
        (changed_list, "InRelease has a wrong signature: it was changed after it was signed"),
        (
            signed_by_another,
            r"InRelease is signed by key \w+, which \S+ lacks: update debian-archive-keyring",
        ),
        (lambda of: cut(of.in_release), "InRelease "),
        (lambda of: of.sign(suite="trixie"), "InRelease is of another suite, trixie"),
        (without_an_index, f"InRelease lists no {INDEX}"),
        (lambda of: changed(of.index), f"{INDEX} is not what the mirror's signed index lists"),
        (lambda of: cut(of.index), rf"{INDEX} is cut off: \d+ of \d+ bytes"),
        (lambda of: of.index.write_bytes(of.index.read_bytes() + b"x"), "is not what the mirror's signed"),
        (lambda of: of.index.unlink(), "there is no suite bookworm"),
        (lambda of: changed(of.deb), rf"{PACKAGE}\.deb is not what the mirror's signed index lists"),
        (lambda of: cut(of.deb), rf"{PACKAGE}\.deb is cut off: \d+ of \d+ bytes"),
        (lambda of: of.deb.unlink(), rf"there is no pool/{PACKAGE}\.deb"),
    ],
)
def test_what_fails_a_check_is_one_line_and_nothing_of_it_is_kept(
    spoil: Callable[[Mirror], None], complaint: str, there: Mirror, capsys: Capture
) -> None:
    spoil(there)
    assert status_of("lab", "build", "debian:bookworm") == 2
    capsys.readouterr()
    with pytest.raises(LabError, match=complaint) as raised:
        kernels.find("debian:bookworm")
    assert "\n" not in str(raised.value)
    assert kernels.cached() == []


def test_what_stands_around_the_signed_text_is_not_read(there: Mirror) -> None:
    text = there.in_release.read_bytes()
    read = signature.verified(text + b"\nCodename: evil\n", "it")
    assert b"Codename: bookworm" in read
    assert b"evil" not in read


@pytest.fixture
def without_apt(cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of another distribution, without apt and its sources; the folder with its programs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv(mirror.MIRROR, raising=False)
    monkeypatch.setattr(mirror, "_SOURCES", (tmp_path / "sources.list", tmp_path / "sources.list.d"))
    on_distribution(monkeypatch, "arch")
    return programs


@pytest.mark.parametrize("spec", ["debian:6.1", "debian:sid"])
@pytest.mark.usefixtures("without_apt")
def test_without_apt_the_user_has_to_name_a_mirror(spec: str) -> None:
    with pytest.raises(LabError, match=r"neither apt nor the name of one .* set KVMHARNESS_DEBIAN_MIRROR to"):
        kernels.find(spec)


@pytest.mark.usefixtures("without_apt")
def test_a_mirror_that_is_no_url_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv(mirror.MIRROR, "/srv/debian")
    assert status_of("list", "kernels") == 2
    assert "'/srv/debian' is not the URL of a mirror" in one_line(capsys.readouterr().err)


def test_a_missing_keyring_or_gpgv_is_reported_with_what_installs_it(
    without_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mirror.MIRROR, "http://127.0.0.1:9/debian")
    monkeypatch.setattr(signature, "KEYRINGS", ())
    with pytest.raises(LabError, match=r"no keyring .*: pacman -S --needed debian-archive-keyring \(or set"):
        kernels.find("debian:6.1")
    monkeypatch.setenv(signature.KEYRING, str(tmp_path / "keys"))
    with pytest.raises(LabError, match=r"KVMHARNESS_DEBIAN_KEYRING: there is no file \S+/keys"):
        kernels.find("debian:6.1")
    put(tmp_path / "keys")
    with pytest.raises(LabError, match=r"there is no gpgv .*: pacman -S --needed gnupg"):
        kernels.find("debian:6.1")


def test_a_mirror_that_does_not_answer_is_one_line_and_what_is_known_is_still_known(
    there: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = mirror.Suite(SUITE).offered()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(mirror.MIRROR, f"http://127.0.0.1:{closed.getsockname()[1]}/debian")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(mirror, "_PAUSE_S", 0)
        assert mirror.Suite(SUITE).offered() == known
        with pytest.raises(NoAnswerError, match=r"the mirror does not answer: .* refused") as raised:
            kernels.find("debian:sid")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("without_apt")
def test_the_mirrors_are_those_of_the_machines_sources_for_apt_where_it_has_some(tmp_path: Path) -> None:
    put(
        tmp_path / "sources.list",
        "# deb http://old.example/debian x main\n"
        "deb [signed-by=/x] http://a.example/debian/ bookworm main\n"
        "deb http://vendor.example/debian-tools bookworm main\n",
    )
    put(
        tmp_path / "sources.list.d/debian.sources",
        "Types: deb\nURIs: http://a.example/debian http://b.example/debian-security\nSuites: x\n",
    )
    assert mirror.mirrors() == ["http://a.example/debian", "http://b.example/debian-security"]
