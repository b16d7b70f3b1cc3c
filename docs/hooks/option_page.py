"""The reference of the command line as a page, made from the parser itself."""

import argparse
import re
from collections.abc import Iterator

from ttrace.cli.argument_parser import Parser

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|])")

TITLE = "Options of every command"


def option_page(parser: Parser) -> str:
    """Markdown of all subcommands: what each does, its options, its examples.

    Args:
        parser: Of the whole command line.
    """
    lines = [f"# {TITLE}", "", "What `ttrace COMMAND --help` says.", ""]
    lines += _fence("text", (parser.epilog or "").strip())
    for command in subcommands(parser):
        lines += _section(command, level=2)
    return "\n".join(lines)


def subcommands(parser: argparse.ArgumentParser) -> list[Parser]:
    """The parsers right below a parser, in its order."""
    found = [
        action.choices.values()
        for action in parser._actions  # argparse says it nowhere else
        if isinstance(action, argparse._SubParsersAction)
    ]
    return [command for choices in found for command in choices]


def _section(parser: Parser, *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {parser.prog}"
    yield ""
    yield escaped(" ".join((parser.description or "").split()))
    yield ""
    yield from _fence("text", _usage(parser))
    for group in parser._action_groups:
        rows = [
            _row(action, parser)
            for action in group._group_actions
            if action.help is not argparse.SUPPRESS
            and not isinstance(
                action, argparse._HelpAction | argparse._SubParsersAction
            )
        ]
        if rows:
            yield f"| {escaped(_title(group))} | |"
            yield "|---|---|"
            yield from rows
            yield ""
    if parser.examples:
        text = "\n\n".join(f"# {what}\n{line}" for line, what in parser.examples)
        yield from _fence("sh", text)
    for below in subcommands(parser):
        yield from _section(below, level=level + 1)


def _usage(parser: Parser) -> str:
    """How a command is written; argparse indents it behind a word that is left out."""
    word = "usage: "
    lines = parser.format_usage().rstrip().splitlines()
    return "\n".join(line[len(word) :] for line in lines)


def _title(group: argparse._ArgumentGroup) -> str:
    """Of a group; argparse gives the two that every parser has names of its own."""
    title = group.title or ""
    return {"positional arguments": "argument", "options": "option"}.get(title, title)


def _row(action: argparse.Action, parser: Parser) -> str:
    """A line of the table: how an option is written, and what it does."""
    value = action.metavar or ""
    if action.choices is not None and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    elif action.nargs != 0 and not value:
        value = action.dest.upper()
    names = [
        f"{name} {value}".strip() if action.nargs != 0 else name
        for name in action.option_strings
    ] or [str(value)]
    said = (action.help or "") % {**vars(action), "prog": parser.prog}
    needed = " (required)" if action.required and action.option_strings else ""
    shown = ", ".join(f"`{name}`".replace("|", "\\|") for name in names)
    return f"| {shown} | {escaped(' '.join(said.split()))}{needed} |"


def _fence(language: str, text: str) -> list[str]:
    return [f"```{language}", text, "```", ""]


def escaped(text: str) -> str:
    """A text with nothing in it that Markdown would take for a sign of its own."""
    return _SPECIAL.sub(r"\\\1", text)
