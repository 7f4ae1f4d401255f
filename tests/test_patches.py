# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches are read out of whatever people have them in."""

import base64
import quopri
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmharness.lab import patches
from kvmharness.lab.patches import Patch, PatchError, apply
from tests.made_up_mails import (
    CHANGED,
    DIFF,
    OTHER_CHANGED,
    OTHER_DIFF,
    SOURCE,
    SOURCE_PATH,
    THREAD,
    damaged,
    mail,
    mailbox,
    quoted,
)

BARE = "\\ No newline at end of file\n"
ATTACHED = f"""\
--x
Content-Type: text/html

<b>No patch</b>
--x
Content-Type: text/x-diff

{DIFF}--x--
"""
NEW_END = f"--- a/{SOURCE_PATH}\n+++ b/{SOURCE_PATH}\n@@ -1,2 +1,2 @@\n one\n-two\n{BARE}+three\n"


def read(text: str) -> list[Patch]:
    return patches.read(text.encode())


def made_of(patch: Patch) -> str:
    """What the source becomes by a patch."""
    (file,) = patch.files
    assert file.path == SOURCE_PATH
    return apply.apply(file, SOURCE).text


def bare(text: str) -> list[str]:
    """A text's lines without any white space."""
    return ["".join(line.split()) for line in text.split("\n")]


def only(text: str | bytes) -> Patch:
    """The patch that is taken where nobody chooses."""
    (patch,) = patches.choose(patches.read(text if isinstance(text, bytes) else text.encode()))
    return patch


def with_body(encoding: str, body: bytes, kind: str = "text/plain; charset=utf-8") -> bytes:
    head = mail("", Content_Type=kind, Content_Transfer_Encoding=encoding, MIME_Version="1.0")
    return head.encode() + body


@pytest.mark.parametrize(
    "text",
    [
        DIFF,
        DIFF.replace("a/arch", "arch").replace("b/arch", "arch"),
        DIFF.replace("\n", "\r\n"),
        "commit 1234\nAuthor: A. Developer\n\n    Leave frozen clocks alone\n\n" + DIFF,
        mail("Frozen.\n\nSigned-off-by: A\n---\n clock.c | 4 +\n\n" + DIFF + "-- \n2.39.5\n"),
        mail(DIFF).replace("\n", "\r\n"),
        mailbox(mail(DIFF)),
        mail(quoted("Frozen.\n---\n" + DIFF) + "\nReviewed-by: B\n", "Re: [PATCH] clock"),
        mail(quoted(quoted(DIFF), ">")),
    ],
)
def test_a_patch_comes_as_a_diff_a_commit_a_mail_a_mailbox_or_a_quotation(text: str) -> None:
    assert made_of(only(text)) == CHANGED


@pytest.mark.parametrize(
    "data",
    [
        with_body("quoted-printable", quopri.encodestring(DIFF.encode())),
        with_body("base64", base64.encodebytes(DIFF.encode())),
        with_body("base64", base64.encodebytes(DIFF.replace("\n", "\r\n").encode())),
        with_body("8bit", DIFF.encode(), "text/plain; charset=no-such-charset"),
        with_body("7bit", ATTACHED.encode(), "multipart/mixed; boundary=x"),
    ],
)
def test_a_mail_may_be_encoded_and_a_patch_attached(data: bytes) -> None:
    assert made_of(only(data)) == CHANGED


def test_characters_are_those_of_the_mails_encoding_and_unknown_bytes_survive() -> None:
    named = DIFF.replace("clock_tell(clock)", 'clock_tell("Löwe")')
    latin = with_body("8bit", named.encode("latin-1"), "text/plain; charset=iso-8859-1")
    assert "Löwe" in made_of(only(latin))
    assert b'clock_tell("L\xf6we")' in made_of(only(named.encode("latin-1"))).encode(errors="surrogateescape")


def test_the_subject_is_the_patches_title() -> None:
    subject = "=?utf-8?q?=5BPATCH=5D_clock=3A_L=C3=B6we?="
    assert only(mail(DIFF, subject)).title == "[PATCH] clock: Löwe"


def test_the_author_and_the_message_of_a_patch_are_known() -> None:
    sent = mail("From: Löwe <l@example.org>\n\n" + DIFF, Message_ID="<1@example.org>")
    patch = only(mail(DIFF, Message_ID="<1@example.org>"))
    assert (patch.author, patch.message_id) == ("A. Developer <a@example.org>", "1@example.org")
    assert only(sent).author == "Löwe <l@example.org>"
    assert (only(DIFF).author, only(DIFF).message_id) == ("", "")


def test_the_patches_of_a_series_are_taken_in_its_order_and_its_cover_letter_is_none() -> None:
    cover = mail("Two patches.\n", "[PATCH 0/2] clock")
    first, second = mail(DIFF, "[PATCH 1/2] clock: One"), mail(OTHER_DIFF, "[PATCH v2 2/2] clock: Two")
    reply = mail(quoted(DIFF) + "\nFine.\n", "Re: [PATCH 1/2] clock: One")
    found = patches.choose(read(mailbox(cover, second, reply, first)))
    assert [made_of(patch) for patch in found] == [CHANGED, OTHER_CHANGED]


def test_the_patches_of_a_thread_are_told_apart_and_chosen_by_number() -> None:
    found = read(THREAD)
    assert [patch.quoted for patch in found] == [2, 1, 0]
    with pytest.raises(PatchError, match="holds 3 of them: choose with --pick N"):
        patches.choose(found)
    expected = [CHANGED, OTHER_CHANGED, CHANGED.replace("frozen", "held")]
    for number, text in enumerate(expected, 1):
        (patch,) = patches.choose(found, [number])
        assert bare(made_of(patch)) == bare(text)
    assert patches.choose(found, [3, 1]) == [found[2], found[0]]
    with pytest.raises(PatchError, match="none has the number 4"):
        patches.choose(found, [4])


@pytest.mark.parametrize(
    "text",
    [
        mailbox(mail(DIFF, "[PATCH v1 1/1] a"), mail(DIFF, "[PATCH v2 1/1] a")),
        mailbox(mail(DIFF), mail(DIFF, "Re: [PATCH] what about this")),
        mail(DIFF + "or\n\n" + OTHER_DIFF),
    ],
)
def test_alternatives_are_never_taken_for_a_series(text: str) -> None:
    with pytest.raises(PatchError, match="holds 2 of them"):
        patches.choose(read(text))


def test_remarks_between_the_lines_of_a_quoted_patch_are_passed_over() -> None:
    lines = quoted(DIFF).splitlines(keepends=True)
    within = "".join([*lines[:8], "\nWhy?\n\n", *lines[8:13], "\nAnd here: why?\n", *lines[13:]])
    assert made_of(only(mail(within, "Re: [PATCH] clock"))) == CHANGED


def test_a_quoted_patch_that_was_cut_short_does_not_swallow_the_one_below() -> None:
    cut = "".join(quoted(DIFF).splitlines(keepends=True)[:8])
    found = read(mail(cut + "\nNo:\n\n" + OTHER_DIFF, "Re: [PATCH] clock"))
    assert [bool(patch.fault) for patch in found] == [True, False]
    assert made_of(found[1]) == OTHER_CHANGED


def test_a_hunk_must_have_the_lines_that_it_says_it_has() -> None:
    lines = DIFF.splitlines(keepends=True)
    for left_out in (5, 8, 9, 11, 15, 19):
        short = "".join([*lines[:left_out], *lines[left_out + 1 :]])
        with pytest.raises(PatchError, match=r"has a hunk (with fewer|whose) lines .*\(line \d+\)"):
            patches.choose(read(short))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no patch at all\n", "holds no patch"),
        ("", "holds no patch"),
        (DIFF[DIFF.index("@@") :], "has a hunk that belongs to no file"),
        (DIFF.replace("index", "old mode 1\nnew mode 2\nindex"), f"changes the mode of {SOURCE_PATH}"),
        (DIFF.replace("index", "rename from a\nrename to b\nindex"), f"renames {SOURCE_PATH}"),
        (DIFF.replace("+++ b/arch/x86/kvm/clock.c", "+++ /dev/null"), f"deletes {SOURCE_PATH}"),
        ("diff --git a/include/x.h b/include/x.h\nBinary files a/include/x.h and b/include/x.h differ\n",
         "has no text of include/x.h"),
        (DIFF.replace("x86/kvm", "x86/kernel"), "changes arch/x86/kernel/clock.c: KVM's modules are not"),
        (DIFF.replace("kvm/clock.c", "kvm/../../../../etc/x"), "changes arch/x86/kvm/../../../../etc/x"),
        (DIFF.replace("a/arch", "a//etc").replace("b/arch", "b//etc"), "KVM's modules are not made of that"),
        (DIFF.replace("index", "new file mode 120000\nindex"), f"makes a link of {SOURCE_PATH}"),
        (re.sub("(index .*) 100644", r"\1 120000", DIFF), f"makes a link of {SOURCE_PATH}"),
        (DIFF.replace("kvm/clock.c", "kvm/$(shell x).c"), "KVM's modules are not made of that"),
        (DIFF.replace("kvm/clock.c", "kvm/.clock.o.cmd"), "KVM's modules are not made of that"),
        (DIFF.replace("clock.c", "Makefile"), "which the build may execute"),
        (DIFF.replace("arch/x86/kvm/clock.c", "include/config/auto.conf"), "which the build may execute"),
        (DIFF.replace("clock.c", "check.sh"), "which the build may execute"),
        (DIFF.replace("clock.c", "Kconfig"), "the kernel's configuration is fixed"),
        (DIFF.replace(SOURCE_PATH, "Documentation/clock.rst"), "changes only Documentation/clock.rst"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_to_the_modules_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(PatchError) as refused:
        patches.choose(read(text))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_documentation_and_selftests_are_passed_over() -> None:
    more = DIFF.replace("arch/x86/kvm/clock.c", "tools/testing/selftests/kvm/clock.c")
    patch = only(DIFF + more)
    assert patch.passed_over == ("tools/testing/selftests/kvm/clock.c",)
    assert made_of(patch) == CHANGED


def test_a_patch_may_make_a_new_file() -> None:
    new = "diff --git a/virt/kvm/new.h b/virt/kvm/new.h\nnew file mode 100644\nindex 0..1\n--- /dev/null\n"
    (file,) = only(new + "+++ b/virt/kvm/new.h\n@@ -0,0 +1,2 @@\n+one\n+\ttwo\n").files
    assert (file.path, apply.apply(file, None).text) == ("virt/kvm/new.h", "one\n\ttwo\n")


def test_a_file_without_a_newline_at_its_end_keeps_or_gets_it_as_the_patch_says() -> None:
    (file,) = only(NEW_END).files
    assert apply.apply(file, "one\ntwo").text == "one\nthree\n"
    (file,) = only(NEW_END + BARE).files
    assert apply.apply(file, "one\ntwo").text == "one\nthree"


@given(st.lists(st.sampled_from([*DIFF.splitlines(), *THREAD.splitlines(), ">", "> >", ""]), max_size=40))
def test_any_jumble_of_lines_is_read_and_either_applies_or_is_refused(lines: list[str]) -> None:
    for patch in read("\n".join(lines)):
        assert patch.fault or all(file.hunks for file in patch.files)


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    with pytest.raises(PatchError):
        patches.choose(patches.read(data))
    assert made_of(patches.read(data + b"\n\n" + DIFF.encode())[-1]) == CHANGED


def test_a_damaged_mail_gives_the_same_source_as_the_patch_itself_but_for_white_space() -> None:
    assert bare(made_of(only(mail(damaged(DIFF))))) == bare(CHANGED)
