"""Parameters that are trained and that no optimizer of a rank holds.

Of a rank of several, that is nothing odd by itself: where each steps a part of the
parameters and broadcasts it, an optimizer of another rank holds them.
"""

from collections.abc import Iterable, Mapping

KEY = "parameters_of_no_optimizer"

Unheld = frozenset[tuple[str, str]]
"""Module and slot of each parameter."""


def unheld_setting(parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The setting of a rank that names them; none where there are none.

    Args:
        parameters: Module and slot of each.
    """
    text = ", ".join(f"{module}/{slot}" for module, slot in parameters)
    return {KEY: text} if text else {}


def unheld_in(settings: Mapping[str, object]) -> Unheld:
    """What a rank names.

    Args:
        settings: Of the rank.
    """
    found = set()
    for name in str(settings.get(KEY, "")).split(", "):
        module, slash, slot = name.rpartition("/")
        if slash:
            found.add((module, slot))
    return frozenset(found)
