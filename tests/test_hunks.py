# SPDX-License-Identifier: GPL-2.0-or-later
"""Hunks are applied where the lines are, and nowhere else."""

import difflib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmharness.lab.patches import apply, diffs
from kvmharness.lab.patches.apply import PatchRefusedError
from kvmharness.lab.patches.diffs import FileDiff
from tests.limits import GIVE_UP_S
from tests.made_up_mails import CHANGED, DIFF, OTHER_DIFF, SOURCE, damaged

PATH = "arch/x86/kvm/clock.c"
# Few different lines, so that they come again; and lines that are all different.
few = st.lists(st.sampled_from(["\tif (a) {", "\t}", "}", "", "\t\tb++;", "\ta = b;"]), max_size=14)
blanks = st.sampled_from(["", " ", "\t", "\t\t", "        ", "\t  "])
words = st.sampled_from(["a = b;", "+a;", "-1,", "b\t\t\\", "/* c */", "* d", "é", "\\ x", "@ e", "> f"])
all_different = st.lists(st.tuples(blanks, words), min_size=1, max_size=25).map(
    lambda pairs: [f"{blank}{word} n{number}" for number, (blank, word) in enumerate(pairs)]
)


@st.composite
def edits(draw: st.DrawFn, files: st.SearchStrategy[list[str]]) -> tuple[list[str], list[str]]:
    """A file's lines before and after a few changes."""
    before = draw(files)
    after = list(before)
    for change in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(after)))
        size = draw(st.integers(0, 3))
        after[at : at + size] = [f"{draw(blanks)}new {change} {n}" for n in range(draw(st.integers(0, 3)))]
    return before, after


def joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def diff_of(before: list[str], after: list[str], context: int = 3) -> str:
    old, new = joined(before).splitlines(keepends=True), joined(after).splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, f"a/{PATH}", f"b/{PATH}", n=context))


def file_of(text: str) -> FileDiff:
    (diff,) = diffs.read(text)
    assert not diff.fault
    (file,) = diff.files
    return file


def bare(text: str) -> list[str]:
    return ["".join(line.split()) for line in text.split("\n")]


@given(edits(all_different), st.integers(1, 4))
def test_a_patch_gives_the_edited_file_to_the_byte(edit: tuple[list[str], list[str]], context: int) -> None:
    before, after = edit
    if before != after:
        applied = apply.apply(file_of(diff_of(before, after, context)), joined(before))
        assert applied.text == joined(after)


@given(edits(all_different))
def test_a_damaged_patch_gives_the_edited_file_but_for_white_space(edit: tuple[list[str], list[str]]) -> None:
    before, after = edit
    if before != after:
        # A kept line that begins like an added one cannot be told from it once its blank is gone: then the
        # numbers of lines do not come out.
        (diff,) = diffs.read(damaged(diff_of(before, after)))
        if not diff.fault:
            assert bare(apply.apply(diff.files[0], joined(before)).text) == bare(joined(after))
        else:
            assert any(line.lstrip()[:1] in ("+", "-", "\\") for line in before)


@given(edits(few))
def test_where_lines_come_again_a_patch_is_applied_rightly_or_refused(
    edit: tuple[list[str], list[str]],
) -> None:
    before, after = edit
    if before != after:
        for text in (diff_of(before, after), damaged(diff_of(before, after))):
            try:
                applied = apply.apply(file_of(text), joined(before))
            except PatchRefusedError:
                continue
            assert bare(applied.text) == bare(joined(after))


@given(edits(few), few, few)
def test_a_hunk_whose_lines_are_there_twice_is_always_refused(
    edit: tuple[list[str], list[str]], above: list[str], below: list[str]
) -> None:
    before, after = edit
    if before != after:
        twice = joined([*above, *before, *below, *before])
        with pytest.raises(PatchRefusedError):
            apply.apply(file_of(diff_of(before, after, 20)), twice)


@given(edits(few), few)
def test_nothing_is_applied_where_the_lines_differ(
    edit: tuple[list[str], list[str]], other: list[str]
) -> None:
    before, after = edit
    if before == after:
        return
    diff = file_of(damaged(diff_of(before, after, 1)))
    try:
        applied = apply.apply(diff, joined(other))
    except PatchRefusedError:
        return
    there = bare(joined(other))
    for hunk, at in zip(diff.hunks, applied.at, strict=True):
        assert there[at - 1 : at - 1 + len(hunk.before)] == [bare(line)[0] for line in hunk.before]


@pytest.mark.skipif(shutil.which("git") is None, reason="missing capability: git")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(edit=edits(all_different), last=st.sampled_from(["", "\n"]), new_last=st.sampled_from(["", "\n"]))
def test_an_undamaged_patch_gives_what_git_apply_gives(
    tmp_path: Path, edit: tuple[list[str], list[str]], last: str, new_last: str
) -> None:
    old, new = ("\n".join(lines) + end for lines, end in zip(edit, (last, new_last), strict=True))
    if old == new or not old or not new:
        return
    for name, text in (("old", old), ("new", new)):
        (tmp_path / name).write_text(text)
    command = ["git", "diff", "--no-index", "--no-prefix", "old", "new"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    diff = done.stdout.replace("--- old", "--- a/old").replace("+++ new", "+++ b/old")
    diff = diff.replace("diff --git old new", "diff --git a/old b/old")
    subprocess.run(["git", "apply"], cwd=tmp_path, input=diff, text=True, check=True)
    assert apply.apply(file_of(diff), old).text == (tmp_path / "old").read_text() == new


def test_a_damaged_patch_leaves_kept_lines_as_they_are_and_adds_what_was_mailed() -> None:
    expected = CHANGED.replace("\tif (clock->verbose)", " if (clock->verbose)")
    expected = expected.replace("\t\tclock_tell(clock);", " clock_tell(clock);")
    expected = expected.replace("\t} else if (!clock->frozen) {", " } else if (!clock->frozen) {")
    assert apply.apply(file_of(damaged(DIFF)), SOURCE).text == expected


CODE = """\
extern void wait_for(int), update(int), tick(int);

void set(int slow, int kind)
{
	int i;

	update(kind);
	update(slow);
}
"""
ADDED = """\
	if (kind)
		update(kind);
	else
		wait_for(kind);
	for (i = 0; i < 3; i++)
		tick(i);
	while (slow > kind)
		if (kind)
			return;
	if (slow)
		wait_for(slow);
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="missing capability: gcc")
@pytest.mark.parametrize("mailed", [damaged, lambda text: text.replace("\t", "        ")])
def test_a_compiler_has_nothing_to_say_of_code_whose_indentation_was_lost(
    mailed: Callable[[str], str], tmp_path: Path
) -> None:
    """KVM is built with -Werror, which -Wmisleading-indentation is a part of."""
    after = CODE.replace("\tupdate(kind);\n", "\tupdate(kind);\n" + ADDED)
    applied = apply.apply(file_of(mailed(diff_of(CODE.splitlines(), after.splitlines()))), CODE).text
    assert applied != after
    assert bare(applied) == bare(after)
    (source := tmp_path / "code.c").write_text(applied)
    command = ["gcc", "-fsyntax-only", "-Wall", "-Werror", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIVE_UP_S)
    assert done.stderr == ""


def refused(text: str, source: str | None = SOURCE) -> tuple[str, str]:
    with pytest.raises(PatchRefusedError) as error:
        apply.apply(file_of(text), source)
    return str(error.value), "\n".join(error.value.details)


def test_a_refusal_names_the_hunk_and_the_places_that_it_might_mean() -> None:
    summary, details = refused(OTHER_DIFF, SOURCE + SOURCE)
    assert summary == f"hunk 1 of {PATH} fits in several places"
    assert f"{PATH}:14, {PATH}:36" in details
    assert "@@ -15,3 +15,2 @@ static void clock_set" in details
    assert "-\tclock->writes++;" in details


def test_a_refusal_names_the_nearest_place_and_the_line_that_differs() -> None:
    summary, details = refused(DIFF, SOURCE.replace("\tclock->stopped = true;", "\tclock_halt(clock);"))
    assert summary == f"hunk 2 of {PATH} fits nowhere"
    assert f"at {PATH}:19 3 of its 4 lines are there, but line 20 is 'clock_halt(clock);'" in details
    assert "not 'clock->stopped = true;'" in details
    assert "hunk 1" not in details


def test_every_hunk_that_does_not_apply_is_named() -> None:
    _, details = refused(DIFF, "nothing of the kind\n")
    assert f"hunk 1 of {PATH} fits nowhere: none of its lines is there" in details
    assert f"hunk 2 of {PATH} fits nowhere: none of its lines is there" in details


def test_a_hunk_that_was_applied_before_is_told_as_such() -> None:
    summary, details = refused(DIFF, CHANGED)
    assert summary == f"hunk 1 of {PATH} is already there"
    assert f"{PATH}:5" in details


def test_a_hunk_without_lines_that_say_where_it_belongs_is_refused() -> None:
    summary, _ = refused(f"--- a/{PATH}\n+++ b/{PATH}\n@@ -5,0 +6 @@\n+x\n")
    assert summary == f"hunk 1 of {PATH} has no line that says where it belongs"
    summary, _ = refused(f"--- a/{PATH}\n+++ b/{PATH}\n@@ -5 +5,2 @@\n \n+x\n")
    assert summary == f"hunk 1 of {PATH} has no line that says where it belongs"


def test_line_numbers_decide_nothing() -> None:
    moved = SOURCE.replace("/* A clock", "/* 1 */\n/* 2 */\n/* 3 */\n/* A clock")
    assert apply.apply(file_of(DIFF), moved).at == (8, 22)
    wrong = DIFF.replace("@@ -5,7 +5,7", "@@ -900,7 +1,7")
    assert apply.apply(file_of(wrong), SOURCE).text == CHANGED


def test_hunks_that_fit_in_another_order_are_refused() -> None:
    first, second = DIFF.index("@@ -5"), DIFF.index("@@ -19")
    summary, _ = refused(DIFF[:first] + DIFF[second:] + DIFF[first:second])
    assert summary == f"the hunks of {PATH} fit, but not in their order"


def test_a_file_is_made_only_where_there_is_none_and_changed_only_where_there_is_one() -> None:
    new = f"--- /dev/null\n+++ b/{PATH}\n@@ -0,0 +1 @@\n+x\n"
    assert refused(new)[0] == f"{PATH} is to be made, but is already there"
    assert refused(DIFF, None)[0] == f"{PATH} is not in the kernel's source"
