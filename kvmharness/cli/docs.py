# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness docs: the documentation that comes with the package, the man page, a shell's completions."""

import argparse
from importlib import metadata
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

import kvmharness
from kvmharness.cli import writing
from kvmharness.cli.errors import NOTHING_FAILED, UsageError

_INDEX = "index.md"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "docs",
        help="show the documentation, the man page, or a shell's completions",
        description="Show a page of the documentation; without one, which pages there are and where.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("page", nargs="?", metavar="PAGE", help="a page, such as for-ci or policies")
    what.add_argument(
        "--man", action="store_true", help="the man page, of all commands: kvmharness docs --man | man -l -"
    )
    what.add_argument(
        "--completion",
        choices=shtab.SUPPORTED_SHELLS,
        metavar="SHELL",
        help=f"what completes the command in a shell ({', '.join(shtab.SUPPORTED_SHELLS)}), "
        "for that shell to read when it starts",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is asked for."""
    if arguments.man:
        text = man_page()
    elif arguments.completion:
        text = completion(arguments.completion)
    else:
        text = page(arguments.page) if arguments.page else _list()
    writing.write_text(text.rstrip("\n") + "\n", None, for_people=False)
    return NOTHING_FAILED


def folder() -> Path:
    """Where the pages are: in a checkout, or where the package put them. UsageError where they are not."""
    checkout = Path(kvmharness.__file__).parent.parent / "docs"
    if (checkout / _INDEX).is_file():
        return checkout
    try:
        files = metadata.files("kvmharness") or []
    except metadata.PackageNotFoundError:
        files = []
    for each in files:
        if each.match(f"doc/kvmharness/{_INDEX}"):
            return Path(str(each.locate())).resolve().parent
    raise UsageError("the documentation was not installed with this kvmharness")


def pages() -> dict[str, Path]:
    """The pages, by their names."""
    return {path.stem: path for path in sorted(folder().glob("*.md"))}


def page(name: str) -> str:
    """A page's text. UsageError, with the names there are, for one that is not there."""
    known = pages()
    path = known.get(name.removeprefix("docs/").removesuffix(".md"))
    if path is None:
        raise UsageError(f"no page {name!r}: there are {', '.join(known)}")
    return path.read_text()


def man_page() -> str:
    """The man page of the whole command, made from its parser."""
    whole = _parser()
    made = Manpage(whole)
    made.manual, made.source = "User commands", f"kvmharness {kvmharness.__version__}"
    return str(made)


def completion(shell: str) -> str:
    """What makes a shell complete the command, made from its parser."""
    whole = _parser()
    _complete_paths(whole)
    return str(shtab.complete(whole, shell=shell))


def _parser() -> argparse.ArgumentParser:
    from kvmharness.cli.main import parser  # noqa: PLC0415 - main has this command, too

    return parser.__wrapped__()


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Have arguments that are paths completed as such."""
    for action in parser._actions:
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)


def _list() -> str:
    """The pages with their titles, and where they are."""
    titles = {name: path.read_text().partition("\n")[0].lstrip("# ") for name, path in pages().items()}
    width = max(map(len, titles))
    lines = [f"{name:{width}}  {title}" for name, title in titles.items()]
    return "\n".join([*lines, "", f"`kvmharness docs PAGE` shows one. They are in {folder()}"])
