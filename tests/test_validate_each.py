# SPDX-License-Identifier: GPL-2.0-or-later
"""`lab validate --each`: what each patch of a series changes; with a make and machines that are made up, and
with a kernel of Debian's."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmharness.cli.main import main
from kvmharness.judging.identity import Identity
from kvmharness.judging.verdict import Expectation, Result, Verdict
from kvmharness.lab import build, runs
from kvmharness.lab.build.incremental_tree import Tree
from kvmharness.lab.build.modules import Built, Contents, Ground
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.runs import Played
from kvmharness.scenarios import Scenario
from tests import made_up_history
from tests.command_line import Capture, checked, one_line, status_of
from tests.limits import GIVE_UP_S
from tests.made_up_builds import SPEC, needs_a_compiler
from tests.made_up_history import Edit
from tests.made_up_kernels import put
from tests.made_up_mails import SOURCE, SOURCE_PATH
from tests.made_up_series import TEN, Patch, as_commits, as_mailbox
from tests.test_lab_validate import to_reproduce

AMD = "arch/x86/kvm/amd.c"
SOURCES = {SOURCE_PATH: SOURCE, AMD: "static int amd;\n"}


def says(words: str, title: str = "", path: str = SOURCE_PATH) -> Patch:
    """A patch that says something at the end of a file: what the made-up make and machine read."""
    return Patch(title or f"KVM: It {words}", (Edit(path, "", f"/* {words} */\n"),))


SERIES = (
    Patch("Documentation: Say more", (Edit("Documentation/virt/kvm/more.rst", "", "More.\n"),)),
    says("changes no module", path=AMD),
    says("hate", "KVM: Say what no compiler likes"),
    says("is silent", "KVM: Say nothing of it"),
    Patch("KVM: Take it back", (Edit(SOURCE_PATH, "/* hate */\n", ""),)),
    says("breaks old-restore"),
    Patch("KVM: Repair it", (Edit(SOURCE_PATH, "/* breaks old-restore */\n", ""),)),
    says("panics"),
    Patch("KVM: Do not panic", (Edit(SOURCE_PATH, "/* panics */\n", ""),)),
    says("mends young-restore"),
)
OUTCOMES = [
    *("passed over", "modules unchanged", "does not build", "does not build", "played"),
    *("played", "played", "played", "played", "played"),
]


@pytest.fixture
def played(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Machines that read in a module which contracts it keeps; the kernels that were played, as they come."""
    kernels: list[str] = []
    put(tree.source / AMD, SOURCES[AMD])

    def play_on(
        kernel: Kernel, machine: Machine, scenarios: list[Scenario], expectation: Expectation
    ) -> Played:
        kernels.append(kernel.spec)
        content = (kernel.folder / "kvm.ko").read_text(errors="replace")
        if "panics" in content:
            return Played(tuple(Result(each.name, Verdict.LOST, "", "it panics") for each in scenarios), {})
        young = "mends young-restore" in content
        keeps = {"young-restore": young, **dict.fromkeys(re.findall(r"breaks (\S+)", content), False)}
        results = tuple(
            Result(each.name, Verdict.PASS, "", kept=keeps.get(each.name, True), conforms=True)
            for each in scenarios
        )
        return Played(results, {}, Identity(("mainline-6.7" if young else "mainline-before-6.7",)))

    monkeypatch.setattr(runs, "play_on", play_on)
    monkeypatch.setattr("kvmharness.cli.lab_options.check_emulator", lambda machine: None)
    return kernels


ASKED = ("--scenario", "young-restore", "--scenario", "old-restore", "--offline")


def each(*arguments: str) -> int:
    return main(["lab", "validate", SPEC, "--each", *ASKED, *arguments])


def box(tmp_path: Path, patches: tuple[Patch, ...] = SERIES) -> str:
    return str(put(tmp_path / "series.mbox", as_mailbox(SOURCES, patches)))


def as_data(text: str) -> dict[str, Any]:
    data = checked(text, "series.schema.json")
    assert isinstance(data, dict)
    assert data["about"]["packages"] == {data["kernel"]: data["about"]["packages"][data["kernel"]]}
    return data


def effects(data: dict[str, Any], machine: str = "amd-smp") -> dict[int, dict[str, Any]]:
    """What each patch does that was played, by its number."""
    return {row["patch"]: row["machines"][machine] for row in data["patches"] if machine in row["machines"]}


def check(data: dict[str, Any]) -> None:
    """The series as it was made."""
    rows = data["patches"]
    assert [row["outcome"] for row in rows] == OUTCOMES
    assert rows[2]["reason"] == f"{SOURCE_PATH}:3: expected love"
    assert (rows[3]["same_error_as"], rows[4]["built_with"]) == (3, [3, 4])
    found = effects(data)
    kept = {number: effect["newly_kept"] for number, effect in found.items() if effect["newly_kept"]}
    broken = {number: effect["newly_broken"] for number, effect in found.items() if effect["newly_broken"]}
    assert (kept, broken) == ({7: ["old-restore"], 10: ["young-restore"]}, {6: ["old-restore"]})
    assert {number for number, effect in found.items() if effect["lost"]} == {8}
    assert found[9]["compared_with"] == 7
    first = [(each["what"], each["becomes"], each["patch"]) for each in data["changed_by"]]
    assert ("behaves as", "mainline-6.7", 10) in first
    assert data["exit_status"] == 1


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_each_patch_of_a_mailbox_has_a_row_that_says_what_it_changes(tmp_path: Path, capsys: Capture) -> None:
    assert each("--patch", box(tmp_path), "--format", "json") == 1
    data = as_data(capsys.readouterr().out)
    check(data)
    assert data["patches"][5]["origin"] == "<6@example.org>"


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_a_range_of_commits_has_the_rows_that_its_mails_have(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "git"
    names = as_commits(folder, SOURCES, SERIES)
    span = f"{names[0]}..{names[-1]}"
    monkeypatch.chdir(folder)
    asked = ["lab", "validate", SPEC, "--range", span, *ASKED, "--format", "json"]
    assert main(asked) == 1
    data = as_data(capsys.readouterr().out)
    check(data)
    assert data["patches"][5]["origin"] == f"commit {names[6][:12]}"
    assert data["patches"][5]["author"] == "A. Developer <a@example.org>"
    monkeypatch.chdir("/")
    assert main([*asked, "--tree", str(folder)]) == 1
    assert as_data(capsys.readouterr().out)["patches"] == data["patches"]


@needs_a_compiler
def test_what_was_played_before_is_not_played_again(
    tmp_path: Path, capsys: Capture, played: list[str]
) -> None:
    patches = (says("is new"), Patch("Take it back", (Edit(SOURCE_PATH, "/* is new */\n", ""),)))
    assert each("--patch", box(tmp_path, patches), "--name", "mine") == 0
    assert sorted(played) == ["built:mine.0", "built:mine.1"]
    assert capsys.readouterr().out.count("no difference was observed") == 2


@needs_a_compiler
def test_a_patch_costs_what_it_has_compiled(tmp_path: Path, tree: Tree, played: list[str]) -> None:
    patches = (says("is new"), says("is no module", path=AMD))
    assert each("--patch", box(tmp_path, patches)) == 0
    assert re.findall(r"CC \[M\]  (\S+)", tree.log.read_text()) == [AMD]
    assert len(played) == 2


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_the_text_is_read_at_80_columns_and_names_the_first_patch_of_each(
    tmp_path: Path, capsys: Capture
) -> None:
    assert each("--patch", box(tmp_path)) == 1
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for words in (
        "1 [PATCH 1/10] Documentation: Say more passed over: KVM's modules are not made of Documentation",
        "2 [PATCH 2/10] KVM: It changes no module builds; modules unchanged, byte for byte",
        f"does not build: {SOURCE_PATH}:3: expected love; nor do patch 4, built with it applied",
        "does not build, for the same error as patch 3",
        "builds; modules changed (with patches 3, 4, which do not build without it)",
        "contracts newly broken: old-restore",
        "the machine was lost: it panics",
        "compared with the kernel with patch 7",
        "old-restore: broken with 6, kept with 7",
        "behaves as: mainline-6.7 with 10",
    ):
        assert words in flat
    assert to_reproduce(text)[:4] == ["lab", "validate", SPEC, "--each"]


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_ktap_has_a_test_for_each_patch(tmp_path: Path, capsys: Capture) -> None:
    assert each("--patch", box(tmp_path), "--format", "ktap") == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines[:2] == ["KTAP version 1", "1..10"]
    assert [line.startswith("ok") for line in lines[2:]] == [
        number not in (3, 4, 6, 8) for number in range(1, 11)
    ]
    assert "# SKIP" in lines[2]


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_a_patch_that_does_not_apply_is_left_out_of_what_comes_after_it(
    tmp_path: Path, capsys: Capture
) -> None:
    other = {**SOURCES, SOURCE_PATH: SOURCE.replace("clock->writes++", "clock->count++")}
    (tmp_path / "a").mkdir()
    first = box(
        tmp_path / "a", (Patch("KVM: Count no writes", (Edit(SOURCE_PATH, "\tclock->writes++;\n", ""),)),)
    )
    wrong = as_mailbox(other, (Patch("KVM: Wrong", (Edit(SOURCE_PATH, "\tclock->count++;\n", ""),)),))
    second = str(put(tmp_path / "wrong.mbox", wrong))
    assert each("--patch", second, "--patch", first, "--format", "json") == 1
    rows = as_data(capsys.readouterr().out)["patches"]
    assert [row["outcome"] for row in rows] == ["does not apply", "played"]
    assert "fits nowhere" in rows[0]["reason"]


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_a_patch_that_changes_other_files_too_is_built_without_these_and_says_so(
    tmp_path: Path, capsys: Capture
) -> None:
    patch = Patch("x86: Both", (*says("is new").edits, Edit("arch/x86/kernel/tsc.c", "", "/* new */\n")))
    assert each("--patch", box(tmp_path, (patch,))) == 0
    assert "without its change of arch/x86/kernel/tsc.c" in " ".join(capsys.readouterr().out.split())


@needs_a_compiler
@pytest.mark.usefixtures("played")
def test_an_interrupted_series_keeps_the_rows_that_were_measured(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_on, build_contents = runs.play_on, build.build_contents
    at_the_sixth = threading.Event()

    def up_to_the_fifth(kernel: Kernel, machine: Machine, *rest: Any) -> Played:
        if kernel.spec.endswith(".6"):
            at_the_sixth.set()
            assert machine.stop
            assert machine.stop.wait(GIVE_UP_S)
        return play_on(kernel, machine, *rest)

    def interrupted_at_the_seventh(on: Ground, contents: Contents, name: str) -> Built:
        if name.endswith(".7"):
            assert at_the_sixth.wait(GIVE_UP_S)
            raise KeyboardInterrupt
        return build_contents(on, contents, name)

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(runs, "play_on", up_to_the_fifth)
    monkeypatch.setattr(build, "build_contents", interrupted_at_the_seventh)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit, match="130"):
        each("--patch", box(tmp_path), "--jobs", "1", "--format", "json")
    out, error = capsys.readouterr()
    data = as_data(out)
    assert error.splitlines()[-1] == "kvmharness: interrupted"
    assert data["cut_short"] == "it was interrupted with 5 of 10 patches measured"
    assert [row["outcome"] for row in data["patches"]] == OUTCOMES[:5]


@needs_a_compiler
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "a series is given by --patch FILE, or by --range A..B"),
        (("--range", "HEAD"), "'HEAD' is no range of commits: expected A..B"),
        (("--range", "HEAD..HEAD"), "HEAD..HEAD holds no commit"),
        (("--range", "no..such"), "git rev-list in "),
        (("--range", "HEAD~1..HEAD", "--tree", "/"), "git rev-parse in /"),
        (("--patch", "/dev/null"), "/dev/null holds no patch"),
        (("--patch", "/dev/null", "--tree", "/"), "--tree is for --range"),
    ],
)
@pytest.mark.usefixtures("played")
def test_what_is_no_series_gets_one_line(
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    as_commits(tmp_path / "git", SOURCES, SERIES[:2])
    monkeypatch.chdir(tmp_path / "git")
    assert status_of("lab", "validate", SPEC, "--each", *ASKED, *arguments) == 2
    assert reason in one_line(capsys.readouterr().err)


@needs_a_compiler
@pytest.mark.parametrize("as_range", [False, True])
@pytest.mark.usefixtures("played")
def test_what_the_build_may_execute_is_refused_before_anything_is_built(
    tmp_path: Path, capsys: Capture, tree: Tree, as_range: bool
) -> None:
    patches = (says("is new"), Patch("KVM: Build", (Edit("arch/x86/kvm/Makefile", "", "x:\n\techo\n"),)))
    asked = ["--patch", box(tmp_path, patches)]
    if as_range:
        names = as_commits(tmp_path / "git", SOURCES, patches)
        asked = ["--range", f"{names[0]}..", "--tree", str(tmp_path / "git")]
    assert each(*asked) == 2
    assert "arch/x86/kvm/Makefile, which the build may execute" in capsys.readouterr().err
    assert not tree.log.exists()


# The real thing

DEBIAN = "debian:6.1"


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("as_range", [False, True], ids=["mailbox", "range"])
def test_ten_patches_to_a_kernel_are_reported_rightly(
    kernel: Callable[[str], Kernel], tmp_path: Path, capsys: Capture, as_range: bool
) -> None:
    kernel(DEBIAN)
    sources = made_up_history.sources_of(DEBIAN, ("arch/x86/kvm", "virt/kvm", "arch/x86/include/asm"))
    asked = ["--patch", str(put(tmp_path / "ten.mbox", as_mailbox(sources, TEN)))]
    if as_range:
        names = as_commits(tmp_path / "git", sources, TEN)
        asked = ["--range", f"{names[0]}..", "--tree", str(tmp_path / "git")]
    assert main(["lab", "validate", DEBIAN, "--each", *asked, "--machine", "amd", "--format", "json"]) == 1
    data = as_data(capsys.readouterr().out)
    rows = data["patches"]
    assert [row["outcome"] for row in rows] == [
        *("passed over", "modules unchanged", "modules unchanged", "played", "does not build"),
        *("modules unchanged", "played", "played", "played", "played"),
    ]
    assert re.match(r"arch/x86/kvm/x86.c:\d+: .series_one. undeclared", rows[4]["reason"])
    assert rows[5]["built_with"] == [5]
    found = effects(data, "amd")
    assert [each.split(" (")[0] for each in found[4]["can_no_longer"]] == [
        "this KVM has an offset attribute that works",
        "this KVM has an offset attribute",
    ]
    assert found[9]["can_now"] == found[4]["can_no_longer"]
    assert "qemu-pair-old" in found[7]["newly_broken"]
    assert found[8]["newly_kept"] == found[7]["newly_broken"]
    assert {"young-restore", "qemu-pair-young"} <= {*found[10]["newly_kept"]}
    assert [found[number]["newly_broken"] for number in (8, 9, 10)] == [[], [], []]
    assert data["without"]["amd"]["behaves_as"] == "mainline-before-6.7 or like-xu-v1"
    assert found[10]["behaves_as"] == "oliver-upton"
