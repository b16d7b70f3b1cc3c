"""Completion in a shell, by argcomplete where that is installed."""

import argparse
import os

ASKED = "_ARGCOMPLETE"
"""Variable that the shell's function sets when it asks for completions."""


def complete_if_asked(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks how its line goes on, and ends the process then."""
    if ASKED not in os.environ:
        return
    try:
        import argcomplete  # pyright: ignore[reportMissingImports]
    except ImportError:  # the shell asks for a program that cannot answer
        return
    argcomplete.autocomplete(parser)
