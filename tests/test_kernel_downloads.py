# SPDX-License-Identifier: GPL-2.0-or-later
"""Downloads that are interrupted, or are not what they should be, from a mirror of the test's own."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import apt
from kvmharness.lab.kernels.apt import State
from tests.made_up_kernels import put


class Mirror(http.server.SimpleHTTPRequestHandler):
    """A mirror that serves one file, hangs up in the middle of it, and goes on where it is asked to."""

    content = bytes(range(256)) * 4000
    asked: list[str] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append(wanted)
        begin = int(wanted[6:].split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.send_header("Last-Modified", self.date_time_string(1))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        part = self.content[begin:]
        self.wfile.write(part if wanted else part[: len(part) // 2])
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def mirror(cache_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a file of that mirror is."""
    if not Path(apt._HELPER).exists():
        pytest.skip("missing capability apt")
    monkeypatch.setattr(apt, "_CONFIGURATION", apt._CONFIGURATION + 'Acquire::http::Proxy "DIRECT";\n')
    Mirror.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/kernel.deb"
        server.shutdown()


def fetched(uri: str, file: Path) -> bytes:
    content = hashlib.sha256(Mirror.content).hexdigest()
    return State().fetch(uri, file, len(Mirror.content), f"SHA256:{content}").read_bytes()


def test_a_download_goes_on_where_it_was_interrupted(mirror: str, tmp_path: Path) -> None:
    put(State().root / "cache/archives/partial/kernel.deb", Mirror.content[:1000])
    assert fetched(mirror, tmp_path / "kernel.deb") == Mirror.content
    assert Mirror.asked[0] == "bytes=1000-"
    assert list((State().root / "cache/archives/partial").iterdir()) == []


def test_a_download_outlives_a_mirror_that_hangs_up(mirror: str, tmp_path: Path) -> None:
    assert fetched(mirror, tmp_path / "kernel.deb") == Mirror.content
    assert len(Mirror.asked) > 1


@pytest.mark.parametrize("length", [1000, len(Mirror.content), len(Mirror.content) + 1])
def test_what_is_left_of_another_download_is_not_taken_for_part_of_this_one(
    length: int, mirror: str, tmp_path: Path
) -> None:
    put(State().root / "cache/archives/partial/kernel.deb", b"x" * length)
    assert fetched(mirror, tmp_path / "kernel.deb") == Mirror.content


def test_a_download_that_is_not_what_the_index_names_is_refused(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"apt-helper download-file: .*Hash"):
        State().fetch(mirror, tmp_path / "kernel.deb", len(Mirror.content), "SHA256:" + "0" * 64)
    assert list((State().root / "cache/archives/partial").iterdir()) == []
    assert not (tmp_path / "kernel.deb").exists()
