# SPDX-License-Identifier: GPL-2.0-or-later
"""`bisect-step` in the tree of a whole kernel, whose make is made up."""

import re
from pathlib import Path

import pytest

from kvmharness.judging.bisection import GIVE_UP, GOOD, SKIP
from kvmharness.lab import cache
from tests.command_line import Capture, one_line, status_of
from tests.made_up_builds import needs_a_compiler
from tests.made_up_kernels import GOOD_CONFIG, put, put_tree
from tests.made_up_mails import SOURCE_PATH

ROOT = Path(__file__).parents[1]

# Of a tree whose make only copies what was built before, unless KVM says so.
WHOLE = """\
into := $(or $(O),.)
clock := arch/x86/kvm/clock.c
olddefconfig allnoconfig:
	@echo $@ $(KCONFIG_ALLCONFIG) >> $(into)/made
bzImage modules:
	@! grep -n hate $(clock) || { echo '$(clock):3:1: error: expected love'; false; }
	@echo $@ >> $(into)/made
	@if test $@ = modules; then cp -r $(CURDIR)/../built/. $(into); cp $(clock) $(into)/seen; fi
"""


@pytest.fixture
def whole(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository as one of a whole kernel."""
    monkeypatch.setattr("kvmharness.lab.build.make.check_programs", lambda *_: None)
    put_tree(tmp_path / "built")
    put(repository / "Kconfig")
    put(repository / "Makefile", WHOLE)
    return repository


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@needs_a_compiler
def test_a_kernel_without_a_configuration_is_built_small_and_not_in_its_tree(
    whole: Path, capsys: Capture
) -> None:
    before = files(whole)
    assert status_of("bisect-step", "--scenario", "young-restore") == GOOD
    assert files(whole) == before
    (built,) = (cache.root() / "trees").glob("whole-*/built")
    assert sorted(files(whole.parent / "built") | {"made", "seen"}) == sorted(files(built))
    made = (built / "made").read_text().split()
    assert made[0] == "allnoconfig"
    assert Path(made[1]).name == "small.config"
    assert sorted(made[2:]) == ["bzImage", "modules"]
    put(whole / SOURCE_PATH, "/* hate */\n")
    assert status_of("bisect-step") == SKIP
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(
        f"skip: {whole} does not build: arch/x86/kvm/clock.c:3: expected love (the whole log"
    )


@needs_a_compiler
def test_a_kernel_with_a_configuration_is_built_in_its_tree_with_that(whole: Path) -> None:
    put(whole / ".config", GOOD_CONFIG)
    assert status_of("bisect-step", "--scenario", "young-restore") == GOOD
    assert (whole / "vmlinux").is_file()
    assert (whole / "made").read_text().split()[0] == "olddefconfig"


def test_a_tree_that_cannot_be_built_is_told_before_the_first_step(whole: Path, capsys: Capture) -> None:
    put(whole / "include/config/auto.conf")
    assert status_of("bisect-step") == GIVE_UP
    assert "has no .config, but make was run in it" in one_line(capsys.readouterr().err)
    put(whole / ".config", "CONFIG_64BIT=y\n")
    assert status_of("bisect-step") == GIVE_UP
    assert "its .config lacks" in one_line(capsys.readouterr().err)


def test_the_small_configuration_is_the_one_of_the_documentation() -> None:
    def options(path: Path) -> list[str]:
        return re.findall(r"^ *(CONFIG_\w+=\w)", path.read_text(), re.MULTILINE)

    page = ROOT / "docs/kernels.md"
    assert options(ROOT / "kvmharness/lab/build/small.config") == options(page) != []
