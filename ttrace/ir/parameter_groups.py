"""Which parameters each group of an optimizer holds, as a run names it in its settings.

An optimizer with one group says nothing: the group holds all that is trained.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_PREFIX = "parameter_groups."

_LATER = re.compile(r"(?:^|; )from step \d+ on ")
"""What stands before the parameters that a group holds from some step on."""

Name = tuple[str, str]
"""Module and slot of a parameter."""

_T = TypeVar("_T")


def parameters_key(group: int) -> str:
    """``parameter_groups.group0``.

    Args:
        group: Number of the group, counted over all optimizers.
    """
    return f"{_PREFIX}group{group}"


def parameters_text(parameters: Iterable[str]) -> str:
    """The setting's value.

    Args:
        parameters: ``module/slot`` of each.
    """
    return ", ".join(parameters)


def groups_in(settings: Mapping[str, object]) -> dict[str, frozenset[Name]]:
    """The parameters of each group that a rank names, by the group: ``group0``.

    Of a group that comes to hold others, all that it ever held.

    Args:
        settings: Of the rank.
    """
    return {
        key.removeprefix(_PREFIX): frozenset(_names(str(text)))
        for key, text in settings.items()
        if key.startswith(_PREFIX)
    }


def without_groups(settings: Mapping[str, _T]) -> dict[str, _T]:
    """All settings but these."""
    return {k: v for k, v in settings.items() if not k.startswith(_PREFIX)}


def _names(text: str) -> Iterable[Name]:
    for held in _LATER.split(text):
        for name in held.split(", "):
            module, slash, slot = name.rpartition("/")
            if slash:
                yield module, slot
