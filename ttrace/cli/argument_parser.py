"""Parsers that answer a wrong option with what to type instead."""

import argparse
import importlib
import itertools
import re
import shlex
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from absl.flags import argparse_flags

_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
"""How argparse says so; where it should say it otherwise, nothing is suggested."""

_MISSING = "the following arguments are required"
"""Likewise."""

_HELP_WIDTH = 79
"""Columns of a description, as command lines behind it must not be wrapped."""

_COMMAND_OPTIONS = ("--reference", "--candidate")
"""Options that take a whole command as one argument."""


class Parser(argparse_flags.ArgumentParser):
    """Says what to do next when an option is wrong.

    Args:
        description: What the command does.
        examples: Command lines for the end of ``--help``, each with what it does.
        **kwargs: As for ``argparse``.

    Attributes:
        examples: As given.
    """

    def __init__(
        self,
        *,
        description: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        **kwargs,
    ):
        kwargs["formatter_class"] = argparse.RawDescriptionHelpFormatter
        if description is not None:
            kwargs["description"] = textwrap.fill(description, _HELP_WIDTH)
        if examples:
            lines = (f"  {line}\n      {what}" for line, what in examples)
            kwargs["epilog"] = "\n".join(("examples:", *lines))
        super().__init__(**kwargs)
        self.examples = tuple(examples)

    def error(self, message: str) -> NoReturn:
        remedy = f"see '{self.prog} --help'"
        invalid = _INVALID_CHOICE.search(message)
        if invalid is not None:
            close = _nearest(invalid[1], re.findall(r"[\w-]+", invalid[2]))
            remedy = f"did you mean {close!r}? {remedy}" if close else remedy
        self.refuse(message, remedy)

    def refuse(self, message: str, remedy: str) -> NoReturn:
        """Ends the program, as no command can be made out."""
        self.exit(2, f"{self.prog}: {message}\n  to do:    {remedy}\n")


class Subparser(Parser):
    """The parser of one subcommand.

    It refuses what it does not know by itself, so that the message names its own help,
    and it has none of absl's flags: those stand before the subcommand.
    """

    def __init__(self, **kwargs):
        super().__init__(inherited_absl_flags=None, add_help=False, **kwargs)
        self._given: list[str] = []
        # absl would add --helpfull, which says nothing more here.
        self.add_argument(
            "-h", "--help", action="help", help="show this help message and exit"
        )

    def parse_known_args(self, args=None, namespace=None):
        self._given = list(args or ())
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse_unknown(unknown, list(args or ()))
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Where an option is missing, one that is misspelt may be it."""
        if message.startswith(_MISSING):
            own = itertools.takewhile(lambda text: text != "--", self._given)
            unknown = [text for text in own if self._is_misspelt(text)]
            if unknown:
                self._refuse_unknown(unknown, self._given)
        super().error(message)

    def _is_misspelt(self, text: str) -> bool:
        """Whether a text is no option, nor the beginning of one, and near to one."""
        name = text.partition("=")[0]
        known = any(option.startswith(name) for option in self._option_string_actions)
        return not known and self._guess(text) is not None

    def _refuse_unknown(self, unknown: Sequence[str], args: Sequence[str]) -> NoReturn:
        quoted = _unquoted_command(unknown, args)
        if quoted is not None:
            option, command, words = quoted
            if self._guess(words[0]) is None:
                self.refuse(
                    f"unrecognized arguments: {' '.join(words)}",
                    f"put the command in quotes: {option} {command}",
                )
        close = next(filter(None, map(self._guess, unknown)), None)
        remedy = f"see '{self.prog} --help'"
        if close is not None:
            remedy = f"did you mean {close!r}? {remedy}"
        self.refuse(f"unrecognized arguments: {' '.join(unknown)}", remedy)

    def _guess(self, text: str) -> str | None:
        """The option that a text may be meant for."""
        if not text.startswith("--"):
            return None
        return _nearest(text.partition("=")[0], list(self._option_string_actions))


class VersionAction(argparse.Action):
    """Prints the version; looks it up only then."""

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        version = importlib.import_module("ttrace").__version__
        print(f"ttrace {version}")
        parser.exit(0)


def _unquoted_command(
    unknown: Sequence[str], args: Sequence[str]
) -> tuple[str, str, Sequence[str]] | None:
    """A command whose words were taken for arguments of ttrace.

    Returns:
        The option, the command in quotes, and the words that nobody knew; None where
        no unknown word follows the first word of a command.
    """
    for place, text in enumerate(args):
        option, is_joined, first = text.partition("=")
        if option not in _COMMAND_OPTIONS:
            continue
        rest = list(args[place + 1 :])
        words = [first] if is_joined else rest[:1]
        rest = rest if is_joined else rest[1:]
        if not rest or rest[0] not in unknown:
            continue
        extra = []
        for word in rest:
            if word.partition("=")[0] in _COMMAND_OPTIONS:
                break
            extra.append(word)
        lost = [word for word in extra if word in unknown]
        # Options of ttrace may follow the command, and need not be a part of it.
        while extra and extra[-1] not in unknown:
            extra.pop()
        command = " ".join((*words, *extra))
        return option, shlex.quote(command), lost
    return None


def _nearest(text: str, choices: Sequence[str]) -> str | None:
    import difflib  # only here: --help is to be quick

    close = difflib.get_close_matches(text, choices, n=1)
    return close[0] if close else None
