"""What a report must say of a planted mistake."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ttrace.ir.kinds import Kind

Draw = Callable[[Sequence[Any]], Any]
"""Takes one of several, by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Where a mistake shows first, and what an engineer would call it.

    Attributes:
        module: Path of the module, or of one around it; empty for any.
        kinds: Of the first divergence; empty for any.
        codes: One of these is the first diagnosis; empty where there is no code.
    """

    module: str
    kinds: frozenset[Kind]
    codes: frozenset[str]


def expected(module: str, kinds: Sequence[Kind], *codes: str) -> Expected:
    """The same in one line."""
    return Expected(module=module, kinds=frozenset(kinds), codes=frozenset(codes))
