"""Parameters that need no gradient, as a run names them among its settings.

Those whose ``requires_grad`` is False when the trace begins. A run that names none says
so, too: of one that says nothing, nothing is known.
"""

from collections.abc import Iterable, Mapping

KEY = "frozen_parameters"

Frozen = frozenset[tuple[str, str]]
"""Module and slot of each parameter."""


def frozen_setting(parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The setting that names them.

    Args:
        parameters: Module and slot of each.
    """
    return {KEY: ", ".join(f"{module}/{slot}" for module, slot in parameters)}


def frozen_in(settings: Iterable[Mapping[str, object]]) -> Frozen:
    """What the ranks of a run name; empty where they say nothing.

    Args:
        settings: Of every rank.
    """
    found = set()
    for of_rank in settings:
        for name in str(of_rank.get(KEY, "")).split(", "):
            module, slash, slot = name.rpartition("/")
            if slash:
                found.add((module, slot))
    return frozenset(found)
