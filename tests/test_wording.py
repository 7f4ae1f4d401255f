# SPDX-License-Identifier: GPL-2.0-or-later
"""The words that users meet: phrases that readers had to translate back, and that may not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each phrase with what to write instead.
PHRASES = {
    r"\bforet(?:ell|ells|old)\b": "predict",
    r"\banew\b": "again",
    r"\bhang(?:s|ing)? on (?!the )": "depend on",
    r"\bpart(?:s|ed|ing)? (?:them|the two|two|which policies|policies)\b": "distinguish",
    r"\b(?:is|are|was|were|be) told (?!apart)": "report, or say who is told what",
    r"\bcom(?:e|es|ing) to (?:the same|what|which|nothing|each)\b": "result in",
    r"\bcame to (?:what|nothing|each)\b": "result in",
    r"[Ww]hat (?:becomes|became|comes|came) of\b": "the result of, what happens to",
    r"\bt(?:ake|akes|aken|ook) (?:it|this|that|them|\w+ \w+) for (?:an|one|granted|a request)\b": "treat as",
    r"\battempts? to synchronize\b": "request to synchronize",
    r"^Whether it did\b": "say what is checked",
}
# "behind" says that something lags; what follows comes "after".
_LAGS = r"(?:\d+ [mun]?s|\bamount|\bclock was|\bclock|\bcycles|\blag|\bthird|\bTSC|\bahead\b.{0,30})"
BEHIND = re.compile(rf"(?<!-)\b(?:{_LAGS} )?behind\b")

# What stays, and why.
EXCEPTIONS = {
    "interprets a small delta (1 second) as an attempt to synchronize": "a comment of kvm_synchronize_tsc()",
}


def texts() -> Iterator[tuple[str, str]]:
    """Every page, and every string and docstring of the package, each with its file."""
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
    for path in pages:
        for paragraph in re.split(r"\n\s*\n", path.read_text()):
            yield path.name, paragraph
    for path in sorted((ROOT / "kvmharness").rglob("*.py")):
        name = str(path.relative_to(ROOT / "kvmharness"))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield name, node.value


def found(text: str) -> Iterator[str]:
    """The phrases in a text, each with what to write instead."""
    text = " ".join(text.split())
    for exception in EXCEPTIONS:
        text = text.replace(exception, "")
    for phrase, instead in PHRASES.items():
        for match in re.finditer(phrase, text):
            yield f"{match[0]!r} (write: {instead}) in: {text[max(0, match.start() - 60) : match.end() + 40]}"
    for match in BEHIND.finditer(text):
        if match[0] == "behind":
            yield f"'behind' (write: after) in: {text[max(0, match.start() - 60) : match.end() + 40]}"


def test_no_page_string_or_docstring_has_a_phrase_that_readers_had_to_translate() -> None:
    assert [
        f"{name}: {each}" for name, text in texts() if name not in EXCEPTIONS for each in found(text)
    ] == []


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_each_exception_is_still_needed(exception: str) -> None:
    assert any(exception in " ".join(text.split()) for _, text in texts())


@pytest.mark.parametrize(
    "text",
    [
        "The model foretells it.",
        "KVM takes the write for an attempt to synchronize.",
        "It looks behind every step.",
        "What became of each claim.",
        "Which scenarios part which policies.",
    ],
)
def test_a_phrase_that_comes_back_is_found(text: str) -> None:
    assert list(found(text))


def test_what_lags_may_be_behind() -> None:
    text = "5 cycles behind, 0.98 s behind vCPU 0, KVM's clock was behind a write, third-write-behind"
    assert list(found(text)) == []
