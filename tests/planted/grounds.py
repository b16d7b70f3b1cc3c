"""The frameworks that mistakes are planted in, by name; imported when asked for."""

import importlib
from collections.abc import Sequence

from tests.planted.grading import Ground

NAMES: Sequence[str] = ("torch", "jax")


def ground_named(name: str) -> Ground:
    """Of ``torch`` or ``jax``."""
    training = importlib.import_module(f"tests.planted.{name}_training")
    mistakes = importlib.import_module(f"tests.planted.{name}_mistakes")
    return Ground(make=training.make, run=training.run, mistakes=mistakes.MISTAKES)
