# SPDX-License-Identifier: GPL-2.0-or-later
"""Files are written whole or not at all, on a full disk too."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.files import write_whole
from tests.limits import GIVE_UP_S

IN_A_NAMESPACE = ("unshare", "--map-root-user", "--mount")


def test_a_new_file_has_the_usual_mode_and_another_keeps_its_own(tmp_path: Path) -> None:
    usual, written = tmp_path / "usual", tmp_path / "written"
    usual.write_bytes(b"")
    write_whole(written, b"one")
    assert written.stat().st_mode == usual.stat().st_mode
    written.chmod(0o600)
    write_whole(written, b"two")
    assert (written.read_bytes(), stat.S_IMODE(written.stat().st_mode)) == (b"two", 0o600)
    assert {path.name for path in tmp_path.iterdir()} == {"usual", "written"}


def test_a_link_is_replaced_and_a_device_is_written_to(tmp_path: Path) -> None:
    (target := tmp_path / "target").write_bytes(b"before")
    (link := tmp_path / "link").symlink_to(target)
    write_whole(link, b"after")
    assert (link.read_bytes(), target.read_bytes()) == (b"after", b"before")
    write_whole(Path(os.devnull), b"gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


FILL = """\
import sys
from pathlib import Path
from kvmharness.files import write_whole
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.errors import LabError
folder = Path(sys.argv[1])
(folder / "whole").write_text("before")
(folder / "other").write_bytes(bytes(1 << 20))
try:
    write_whole(folder / "whole", bytes(3 << 20))
except OSError as error:
    print(error.strerror)
try:
    Tree(folder / "tree").become({"virt/kvm/made.h": "x" * (3 << 20)})
except LabError as error:
    print(error)
try:
    Tree(folder / "copied").follow({"big": Path(sys.argv[2])})
except LabError as error:
    print(error)
print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
print((folder / "whole").read_text())
"""


def test_on_a_full_disk_what_was_there_stays_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    if subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("missing capability: user namespaces")
    (folder := tmp_path / "full").mkdir()
    (big := tmp_path / "big").write_bytes(bytes(3 << 20))
    (program := tmp_path / "fill.py").write_text(FILL)
    mounted = f"mount -t tmpfs -o size=2m tmpfs {folder} && exec {sys.executable} {program} {folder} {big}"
    done = subprocess.run(
        [*IN_A_NAMESPACE, "sh", "-c", mounted],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_S,
    )
    no_space, tree, copied, left, whole = done.stdout.splitlines()
    assert no_space == "No space left on device", done.stderr
    assert tree == f"cannot write {folder}/tree/tree/virt/kvm/made.h: No space left on device"
    assert copied.startswith("cannot copy ")
    assert left == "['other', 'tree/patched.json', 'whole']"
    assert whole == "before"
