# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab build`: modules built again with one patch after the other, in a tree whose make is made up."""

import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvmharness.cli.main import main
from kvmharness.lab import cache, kernels
from kvmharness.lab.build import make, modules
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.errors import LabError
from tests.made_up_builds import PACKAGE, SPEC, needs_a_compiler
from tests.made_up_distribution import on_distribution
from tests.made_up_kernels import RELEASE, module, put
from tests.made_up_mails import DIFF, OTHER_DIFF, SOURCE, SOURCE_PATH, THREAD

pytestmark = needs_a_compiler


def patch_file(tmp_path: Path, text: str = DIFF, name: str = "frozen.patch") -> str:
    return str(put(tmp_path / name, text))


def lab_build(*arguments: str) -> int:
    return main(["lab", "build", SPEC, "--offline", *arguments])


def compiled(tree: Tree) -> list[str]:
    """What the last make compiled."""
    return sorted(re.findall(r"CC \[M\]  (\S+)", tree.log.read_text()))


def test_the_modules_are_built_with_the_patch_and_the_kernel_is_the_distributions(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab_build("--patch", patch_file(tmp_path)) == 0
    said = capsys.readouterr()
    assert said.out == "built:debian-6.18+frozen\n"
    assert f"{SOURCE_PATH}: at 5, 19" in said.err
    built, base = kernels.find("built:debian-6.18+frozen"), kernels.find(SPEC, offline=True)
    assert built.release == RELEASE
    assert built.vmlinux.samefile(base.vmlinux)
    assert [path.name for path in built.modules_for("kvm_amd")] == ["irqbypass.ko", "kvm.ko", "kvm_amd.ko"]
    assert b"clock->frozen" in (built.folder / "kvm.ko").read_bytes()
    assert b"clock->frozen" not in (base.folder / "kvm.ko").read_bytes()
    assert (built.folder / "build.log").read_bytes() == tree.log.read_bytes()


def test_make_builds_only_what_another_patch_changes(tree: Tree, tmp_path: Path) -> None:
    first, other = patch_file(tmp_path), patch_file(tmp_path, OTHER_DIFF, "writes.patch")
    for patch, expected in (
        (first, ["arch/x86/kvm/amd.c", "arch/x86/kvm/clock.c"]),
        (first, []),
        (other, ["arch/x86/kvm/clock.c"]),
        (other, []),
        (first, ["arch/x86/kvm/clock.c"]),
    ):
        assert lab_build("--patch", patch) == 0
        assert compiled(tree) == expected


def test_several_patches_are_applied_on_top_of_each_other_and_none_stays(tree: Tree, tmp_path: Path) -> None:
    both = ["--patch", patch_file(tmp_path), "--patch", patch_file(tmp_path, OTHER_DIFF, "writes.patch")]
    assert lab_build(*both, "--name", "both") == 0
    text = (tree.source / SOURCE_PATH).read_text()
    assert "frozen" in text
    assert "writes++" not in text
    assert lab_build("--patch", patch_file(tmp_path, OTHER_DIFF, "writes.patch"), "--name", "one") == 0
    assert (tree.source / SOURCE_PATH).read_text() == SOURCE.replace("\tclock->writes++;\n", "")
    assert tree.original(SOURCE_PATH) == SOURCE


def test_what_the_compiler_says_is_shown_and_the_whole_log_is_named(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab_build("--patch", patch_file(tmp_path, DIFF.replace("frozen", "hate"))) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "    hate"
    assert said[1] == (
        f"kvmharness: {SPEC} does not build with this: arch/x86/kvm/clock.c:3: expected love "
        f"(the whole log: {tree.log})"
    )
    assert kernels.cached() == [kernels.Cached("debian:6.18-1", PACKAGE.release)]


def test_a_patch_that_does_not_apply_is_refused_with_its_hunks_and_nothing_is_touched(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab_build("--patch", patch_file(tmp_path, DIFF.replace("clock->stopped", "clock->halted"))) == 2
    said = capsys.readouterr().err
    assert f"hunk 1 of {SOURCE_PATH} fits nowhere: at {SOURCE_PATH}:5 6 of its 7 lines are there" in said
    assert f"hunk 2 of {SOURCE_PATH} fits nowhere" in said
    assert (
        said.splitlines()[-1]
        == f"kvmharness: {SPEC}: hunk 1 of {SOURCE_PATH} fits nowhere: nothing was built"
    )
    assert not tree.log.exists()
    assert (tree.source / SOURCE_PATH).read_text() == SOURCE


def test_a_thread_is_listed_and_its_patches_are_picked_by_number(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = patch_file(tmp_path, THREAD, "thread.txt")
    assert lab_build("--patch", thread) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{thread} 1, quoted 2x: {SOURCE_PATH}"
    assert said[-1] == f"kvmharness: {thread} holds 3 of them: choose with --pick N"
    assert lab_build("--patch", thread, "--list") == 0
    assert capsys.readouterr().out.splitlines() == said[:-1]
    assert lab_build("--patch", thread, "--pick", "3") == 0
    assert capsys.readouterr().out == "built:debian-6.18+thread-3\n"
    assert "clock->held" in (tree.source / SOURCE_PATH).read_text()


def test_a_pick_is_for_the_patch_before_it(tree: Tree, tmp_path: Path) -> None:
    thread, other = (
        patch_file(tmp_path, THREAD, "thread.txt"),
        patch_file(tmp_path, OTHER_DIFF, "writes.patch"),
    )
    assert lab_build("--patch", thread, "--pick", "1", "--patch", other, "--name", "x") == 0
    assert "clock->frozen" in (tree.source / SOURCE_PATH).read_text()
    with pytest.raises(SystemExit):
        lab_build("--pick", "1", "--patch", thread)


def test_a_patch_comes_from_stdin_too(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(DIFF.encode())))
    assert lab_build("--patch", "-") == 0
    assert capsys.readouterr().out == "built:debian-6.18+stdin\n"
    assert lab_build("--patch", "-", "--patch", "-") == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--patch", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
        (["--patch", "/dev/null"], "/dev/null holds no patch"),
        (["--name", "a/b"], "'a/b' is no name for a kernel"),
    ],
)
def test_bad_input_gets_one_line(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    patch = [] if "--patch" in arguments else ["--patch", patch_file(tmp_path)]
    assert lab_build(*arguments, *patch) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_only_debians_kernels_are_built_and_offline_only_from_the_cache(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tree.place)
    assert lab_build("--patch", patch_file(tmp_path)) == 2
    assert "is not in the cache, and --offline fetches nothing" in capsys.readouterr().err
    assert lab_build("--patch", patch_file(tmp_path), "--name", "x") == 2
    assert main(["lab", "run", "built:x", "--offline"]) == 2
    assert "unknown kernel 'built:x': `kvmharness lab build` has made none" in capsys.readouterr().err


def test_a_name_is_given_to_what_was_built_last(tree: Tree, tmp_path: Path) -> None:
    for text in (DIFF, OTHER_DIFF):
        assert lab_build("--patch", patch_file(tmp_path, text), "--name", "mine") == 0
    kernel = kernels.find("built:mine")
    assert b"frozen" not in (kernel.folder / "kvm.ko").read_bytes()
    assert kernels.Cached("built:mine", RELEASE) in kernels.cached()


def test_modules_built_for_another_release_are_refused(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tree.source / "scripts/kvm.bin", module("6.18.1", "irqbypass"))
    assert lab_build("--patch", patch_file(tmp_path)) == 2
    assert f"kvm was built for 6.18.1, the kernel {SPEC} is {RELEASE}" in capsys.readouterr().err


def test_a_build_system_that_is_too_new_for_this_machine_is_told_as_such(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = '#!/bin/sh\necho "$0: /lib/libc.so.6: version \\`GLIBC_9.9\' not found" >&2\nexit 1\n'
    put(tree.source / "tools/objtool/objtool", says).chmod(0o755)
    assert lab_build("--patch", patch_file(tmp_path)) == 2
    said = capsys.readouterr().err
    assert f"{SPEC}: its build system's objtool does not run on this machine" in said
    assert "(version `GLIBC_9.9' not found)" in said


def test_another_compiler_than_the_kernels_is_told(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tree.source / ".config", 'CONFIG_CC_VERSION_TEXT="gcc-77 (Some) 77.1.0"\nCONFIG_GCC_VERSION=770100\n')
    assert lab_build("--patch", patch_file(tmp_path)) == 0
    assert re.search(
        r"warning: the kernel was built by gcc 77\.1\.0, the modules by \d+", capsys.readouterr().err
    )


def test_a_make_above_changes_nothing(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAKEFLAGS", "n"), ("M", "elsewhere"), ("KCFLAGS", "-O0"), ("ARCH", "arm64")):
        monkeypatch.setenv(name, value)
    assert lab_build("--patch", patch_file(tmp_path)) == 0
    assert compiled(tree)


def test_two_builds_in_one_tree_come_one_after_the_other(tree: Tree, tmp_path: Path) -> None:
    (marker := tmp_path / "held").touch()
    hold = (
        "import sys, time, pathlib\nfrom kvmharness.lab import cache\n"
        "with cache.locked(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(1)\n"
        "    pathlib.Path(sys.argv[2]).unlink()\n"
    )
    command = [sys.executable, "-c", hold, str(tree.place), str(marker)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert lab_build("--patch", patch_file(tmp_path)) == 0
        assert not marker.exists()


def test_trees_that_nobody_builds_in_go(tree: Tree, tmp_path: Path) -> None:
    old, young = (cache.root() / "trees" / name for name in ("old", "young"))
    for place in (old, young):
        place.mkdir()
    then = time.time() - modules._UNUSED_S - 60
    os.utime(old, (then, then))
    assert lab_build("--patch", patch_file(tmp_path)) == 0
    assert (old.exists(), young.exists(), tree.source.exists()) == (False, True, True)


# A tree of one's own


@pytest.fixture
def own(tree: Tree, tmp_path: Path) -> Path:
    """A kernel's tree in which make was run, with the made-up make."""
    own = tmp_path / "linux"
    for path in tree.source.rglob("*"):
        if path.is_file():
            put(own / path.relative_to(tree.source), path.read_bytes())
    for name in ("Module.symvers", "include/config/auto.conf", "arch/x86/kvm/old.o"):
        put(own / name)
    return own


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def build_own(own: Path, patch: str) -> list[str]:
    """Build for a tree; what make compiled."""
    assert main(["lab", "build", str(own), "--patch", patch, "--name", "own"]) == 0
    log = kernels.find("built:own").folder / "build.log"
    return sorted(re.findall(r"CC \[M\]  (\S+)", log.read_text()))


def test_modules_are_built_for_a_tree_of_ones_own_which_is_only_read(own: Path, tmp_path: Path) -> None:
    before = contents(own)
    both = ["arch/x86/kvm/amd.c", "arch/x86/kvm/clock.c"]
    assert build_own(own, patch_file(tmp_path)) == both
    assert build_own(own, patch_file(tmp_path)) == []
    assert contents(own) == before
    assert b"clock->frozen" in (kernels.find("built:own").folder / "kvm.ko").read_bytes()


def test_what_changes_in_the_tree_is_built_again_and_no_more(own: Path, tmp_path: Path) -> None:
    build_own(own, patch_file(tmp_path))
    # Older than what was built of it, as git leaves a file that was changed before.
    put(own / "arch/x86/kvm/amd.c", "/* changed */\n")
    os.utime(own / "arch/x86/kvm/amd.c", (1, 1))
    assert build_own(own, patch_file(tmp_path)) == ["arch/x86/kvm/amd.c"]
    put(own / SOURCE_PATH, SOURCE.replace("u64 now", "u64 at_once"))
    assert build_own(own, patch_file(tmp_path)) == [SOURCE_PATH]
    content = (kernels.find("built:own").folder / "kvm.ko").read_bytes()
    assert b"clock->frozen" in content
    assert b"at_once" in content


def test_the_output_of_make_o_is_taken_with_its_source(own: Path, tmp_path: Path) -> None:
    source = tmp_path / "source-of-it"
    for name in ("Makefile", SOURCE_PATH, "arch/x86/kvm/amd.c"):
        put(source / name, (own / name).read_bytes())
        (own / name).unlink()
    put(own / "Makefile", "include elsewhere\n")
    (own / "source").symlink_to(source)
    assert len(build_own(own, patch_file(tmp_path))) == 2


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("Module.symvers", "has no Module.symvers: run make there"),
        ("arch/x86/kvm/clock.c arch/x86/kvm/amd.c", "has no source of KVM"),
    ],
)
def test_a_tree_without_what_modules_are_built_from_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str, reason: str
) -> None:
    for name in gone.split():
        (own / name).unlink()
    assert main(["lab", "build", str(own), "--patch", patch_file(tmp_path)]) == 2
    assert reason in capsys.readouterr().err


# What the build would execute


MAKEFILE_PATCH = """\
--- /dev/null
+++ b/arch/x86/kvm/Makefile.mine
@@ -0,0 +1 @@
+$(shell touch owned)
"""


def test_what_the_build_executes_is_changed_only_where_that_is_allowed(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = patch_file(tmp_path, DIFF + MAKEFILE_PATCH)
    assert main(["lab", "build", SPEC, "--patch", patch, "--offline"]) == 2
    error = capsys.readouterr().err
    assert "changes arch/x86/kvm/Makefile.mine, which the build may execute: read it" in error
    assert "--allow-build-scripts" in error
    assert not (tree.source / "arch/x86/kvm/Makefile.mine").exists()
    assert main(["lab", "build", SPEC, "--patch", patch, "--offline", "--allow-build-scripts"]) == 0
    assert (tree.source / "arch/x86/kvm/Makefile.mine").exists()


def test_a_link_in_the_tree_leads_no_patch_out_of_it(tree: Tree, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (tree.source / "include").mkdir()
    (tree.source / "include/mine").symlink_to(elsewhere)
    with pytest.raises(LabError, match=r"include/mine/x.h leads out of"):
        tree.become({"include/mine/x.h": "x\n"})
    assert list(elsewhere.iterdir()) == []


# The tree in the cache


def times(tree: Tree) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(tree.source.rglob("*")) if path.is_file()}


def test_a_tree_touches_no_file_that_stays_what_it_is(tree: Tree) -> None:
    tree.become({SOURCE_PATH: "new\n", "virt/kvm/made.h": "made\n"})
    before = times(tree)
    tree.become({SOURCE_PATH: "new\n", "virt/kvm/made.h": "made\n"})
    assert times(tree) == before
    tree.become({SOURCE_PATH: "new\n"})
    assert not (tree.source / "virt/kvm/made.h").exists()
    tree.become({})
    assert (tree.source / SOURCE_PATH).read_text() == SOURCE
    changed = {name for name, when in times(tree).items() if before[name] != when}
    assert changed == {str(tree.source / SOURCE_PATH)}


def test_a_tree_keeps_its_originals_whatever_becomes_of_it(tree: Tree) -> None:
    odd = SOURCE.encode() + b"/* \xff */\n"
    (tree.source / SOURCE_PATH).write_bytes(odd)
    for text in ("one\n", "two\n"):
        tree.become({SOURCE_PATH: text, "include/made.h": text})
        again = Tree(tree.place)
        assert again.original("include/made.h") is None
        assert (again.original(SOURCE_PATH) or "").encode(errors="surrogateescape") == odd
    tree.become({})
    assert (tree.source / SOURCE_PATH).read_bytes() == odd


# What make says


def test_the_first_errors_of_a_log_are_shown_with_their_lines() -> None:
    log = "  CC [M]  arch/x86/kvm/x86.o\n"
    for number in range(1, 8):
        log += f"arch/x86/kvm/x86.c: In function 'f':\narch/x86/kvm/x86.c:{number}:9: error: no {number}\n"
        log += f"    {number} |         bad{number}();\n      |         ^~~~\n"
    log += "make[1]: *** [scripts/Makefile.build:250: arch/x86/kvm/x86.o] Error 1\n"
    shown = make.complaints(log)
    assert shown[:3] == ["arch/x86/kvm/x86.c:1: no 1", "    bad1();", "arch/x86/kvm/x86.c:2: no 2"]
    assert shown[-1] == "and 2 more"
    assert len(shown) == 11


@pytest.mark.parametrize(
    ("log", "first"),
    [
        ('ERROR: modpost: "f" [kvm.ko] undefined!\nmake: *** [Makefile:1] Error 2\n', "ERROR: modpost:"),
        ("gcc: error: unrecognized command-line option '-fnew'\nmake: *** x\n", "gcc: error: unrecognized"),
        ("/bin/sh: 1: x: not found\nmake: *** x\n", "/bin/sh: 1: x: not found"),
        ("ld: cannot open x\nmake: *** x\n", "ld: cannot open x"),
        ("make[2]: *** Deleting file 'x'\nmake[2]: *** [Makefile:1] Error 1\n", "make[2]: *** [Makefile"),
        ("make: *** No rule to make target 'x'.  Stop.\n", "make: *** No rule"),
        ("something else\n", "something else"),
        ("", "make failed without a word"),
    ],
)
def test_where_the_compiler_has_no_error_the_plainest_of_the_others_is_shown(log: str, first: str) -> None:
    assert make.complaints(log)[0].startswith(first)


def test_all_programs_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there = shutil.which
    on_distribution(monkeypatch, "debian")
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("ld", "tar", "gcc") else there(name))
    with pytest.raises(LabError, match=r"there is no gcc .*: apt-get install gcc binutils tar$"):
        modules.ground("debian:6.12")
    with pytest.raises(LabError, match=r"there is no gcc .*: apt-get install gcc binutils$"):
        modules.ground("built:x")
