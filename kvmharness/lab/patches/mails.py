# SPDX-License-Identifier: GPL-2.0-or-later
"""Mails, mailboxes and plain texts as what is written in them. Pure: bytes in, texts out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message

# A line between the mails of a mailbox, as git format-patch and archives write it: it has a time, and a
# header comes next.
_BETWEEN = re.compile(rb"^From [^\n]*\d\d:\d\d:\d\d[^\n]*\n(?=[!-9;-~]+:)", re.MULTILINE)
# A text is a mail if one of these stands in its first paragraph. The page of an archive may begin with
# words that look like a header ("Re: ...").
_HEADERS = ("Subject", "From", "MIME-Version", "Content-Type")
_AUTHOR = re.compile(r"From: (.*)\n")
_PATCH_NAMES = (".patch", ".diff", ".txt")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail: its subject, and its text, lines ended by a newline alone; its author and Message-ID. What it
    has not is "".

    Bytes that are no characters of the mail's encoding are surrogates, as os.fsdecode() makes them.
    """

    subject: str
    text: str
    author: str = ""
    message_id: str = ""


def read(data: bytes) -> list[Mail]:
    """The mails of a mailbox; a single mail, or a text without headers, is a mailbox of one."""
    marks = list(_BETWEEN.finditer(data))
    if not marks:
        return [_mail(data)]
    ends = [mark.start() for mark in marks[1:]] + [len(data)]
    return [_mail(data[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]


def _mail(data: bytes) -> Mail:
    message = message_from_bytes(data)
    if not any(header in message for header in _HEADERS):
        return Mail("", _plain(data.decode(errors="surrogateescape")))
    text = "\n".join(_plain(_text(part)) for part in _parts(message))
    message_id = _header(message, "Message-ID").strip("<> ")
    # Who sends somebody else's patch names them in its first line (git-am(1)).
    by_another = _AUTHOR.match(text.lstrip("\n"))
    author = by_another[1].strip() if by_another else _header(message, "From")
    return Mail(_header(message, "Subject"), text, author, message_id)


def _parts(message: Message) -> Iterator[Message]:
    """The parts of a mail that people wrote, and patches that are attached."""
    for part in message.walk():
        name = part.get_filename() or ""
        kind = part.get_content_type()
        if part.is_multipart() or kind == "text/html":
            continue
        if part.get_content_maintype() == "text" or name.endswith(_PATCH_NAMES):
            yield part


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset() or "utf-8"
    try:
        return data.decode(charset)
    except (LookupError, UnicodeError):
        return data.decode(errors="surrogateescape")


def _header(message: Message, name: str) -> str:
    """A header, decoded, on one line; "" where there is none."""
    raw = message.get(name, "")
    try:
        decoded = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        decoded = str(raw)
    return " ".join(decoded.split())


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n")
