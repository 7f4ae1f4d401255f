# SPDX-License-Identifier: GPL-2.0-or-later
"""A source file of our own, patches to it, and mails that hold them in every shape."""

from pathlib import Path

_FOLDER = Path(__file__).with_name("patches")
SOURCE_PATH = "arch/x86/kvm/clock.c"
SOURCE = (_FOLDER / "clock.c").read_text()
DIFF = (_FOLDER / "clock-frozen.patch").read_text()
CHANGED = SOURCE.replace("} else {", "} else if (!clock->frozen) {").replace(
    "\tclock_update(clock);\n", "\tclock_update(clock);\n\tif (clock->verbose)\n\t\tclock_tell(clock);\n"
)

OTHER_DIFF = (_FOLDER / "clock-writes.patch").read_text()
OTHER_CHANGED = SOURCE.replace("\tclock->writes++;\n", "")


def quoted(text: str, mark: str = "> ") -> str:
    """A text as a mail quotes it."""
    return "".join(f"{mark}{line}".rstrip(" ") + "\n" for line in text.splitlines())


def damaged(text: str) -> str:
    """A text as some archives show it: tabs, leading blanks and all but one of several blanks are gone."""
    lines = []
    for line in text.splitlines():
        mark = line[:1] if line[:1] in ("+", "-") and line[:3] not in ("+++", "---") else ""
        body = " ".join(line[len(mark) :].split())
        blank = " " if mark and line[len(mark) : len(mark) + 1].isspace() else ""
        lines.append(f"{mark}{blank}{body}".rstrip())
    return "\n".join(lines) + "\n"


def mail(text: str, subject: str = "[PATCH] clock: Leave frozen clocks alone", **headers: str) -> str:
    """A mail with that text."""
    more = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items())
    return f"From: A. Developer <a@example.org>\nSubject: {subject}\n{more}\n{text}"


def mailbox(*mails: str) -> str:
    """The mails as git format-patch --stdout joins them."""
    return "".join(
        f"From {number:040x} Mon Sep 17 00:00:00 2001\n{each}\n" for number, each in enumerate(mails)
    )


# A thread in one mail: a quoted patch, a quoted answer with another, and a third of the mail's own.
_FIRST = quoted(damaged("It should be left alone.\n---\n" + DIFF), "> > ")
_SECOND = quoted(damaged("Why not count no writes?\n\n---\n clock.c | 1 -\n\n" + OTHER_DIFF))
THREAD = f"""\
Re: [PATCH] clock: Leave frozen clocks alone

From: B. Maintainer
Date: some day

On another day, somebody wrote:
{_FIRST}>
{_SECOND}
Because of this:

{damaged(DIFF.replace("frozen", "held"))}
It is simpler.
"""
