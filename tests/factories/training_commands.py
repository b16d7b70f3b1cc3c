"""Command lines that run ``fake_training``."""

import shlex
import sys
from pathlib import Path

_SCRIPT = Path(__file__).with_name("fake_training.py")


def training(*options: str) -> list[str]:
    """Program and arguments."""
    return [sys.executable, str(_SCRIPT), *options]


def training_text(*options: str) -> str:
    """The same as one text, as ``--reference`` takes it."""
    return shlex.join(training(*options))
