"""Patterns by which a script says how its tensors lie, as traces write them down.

A frontend lowers the texts, and records them among the settings of a rank; what judges
a shape that contradicts one can then name it.
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.tensor_id import TensorId

_T = TypeVar("_T")

_PREFIX = "written_dims."

_PARAMETERS = frozenset(
    {
        Kind.PARAM,
        Kind.BUFFER,
        Kind.PARAM_GRAD,
        Kind.MAIN_GRAD,
        Kind.CLIPPED_GRAD,
        Kind.OPTIMIZER_STATE,
        Kind.UPDATED_PARAM,
        Kind.WRITTEN_PARAM,
        Kind.UPDATED_BUFFER,
    }
)

_OF = {
    Kind.GRAD_OUTPUT: Kind.OUTPUT,
    Kind.GRAD_INPUT: Kind.INPUT,
    Kind.UPDATED_BUFFER: Kind.BUFFER,
    **dict.fromkeys(_PARAMETERS - {Kind.BUFFER, Kind.UPDATED_BUFFER}, Kind.PARAM),
}
"""What a gradient is of, and so on."""


def first_match(
    patterns: Iterable[str], path: str, kind: Kind, slot: str
) -> str | None:
    """The first pattern that matches a tensor; None if none does.

    Args:
        patterns: One without ``/`` is that of a module's path, any other one that of
            ``module/kind/slot``.
        path: Canonical path of the module.
        kind: What the tensor is.
        slot: Which one.
    """
    return next((p for p in patterns if _matches(p, path, kind, slot)), None)


def match_of_tensor(
    patterns: Iterable[str], path: str, kind: Kind, slot: str
) -> str | None:
    """As ``first_match``; what has no pattern of its own has that of what it is of.

    One of its own matches it and not what it is of: the gradient of an output has that
    of the output, and what there is of a parameter that of the parameter.
    """
    patterns = tuple(patterns)
    of = _OF.get(kind)
    found = first_match(patterns, path, kind, slot)
    if of is None or (found is not None and not _matches(found, path, of, slot)):
        return found
    return first_match(patterns, path, of, slot)


def _matches(pattern: str, path: str, kind: Kind, slot: str) -> bool:
    whole_text = f"{path}/{kind}/{slot}"
    return fnmatch.fnmatchcase(whole_text if "/" in pattern else path, pattern)


def written_settings(**rules: Mapping[str, object]) -> dict[str, str]:
    """The settings that hold rules: text by pattern, other answers as None.

    Args:
        rules: ``activations`` and ``parameters``.
    """
    return {
        f"{_PREFIX}{which}": json.dumps(
            {
                pattern: text if isinstance(text, str) else None
                for pattern, text in of_which.items()
            }
        )
        for which, of_which in rules.items()
    }


def without_written(settings: Mapping[str, _T]) -> dict[str, _T]:
    """All settings but these."""
    return {k: v for k, v in settings.items() if not k.startswith(_PREFIX)}


def has_written(settings: Mapping[str, object]) -> bool:
    """Whether a run says by patterns how its tensors lie."""
    return any(key.startswith(_PREFIX) for key in settings)


def written_of(
    settings: Mapping[str, object], id_: TensorId
) -> tuple[str, str, str] | None:
    """What rules say of a tensor: which of them, the pattern, text; None if nothing.

    Args:
        settings: Of a rank.
        id_: Of the tensor.
    """
    if id_.kind in ACTIVATIONS:
        which = "activations"
    elif id_.kind in _PARAMETERS:
        which = "parameters"
    else:
        return None
    rules = json.loads(str(settings.get(f"{_PREFIX}{which}", "{}")))
    slot = id_.slot or ""
    if id_.kind is Kind.OPTIMIZER_STATE:
        slot = slot.rpartition(".")[0]  # weight.exp_avg lies as weight does
    pattern = match_of_tensor(rules, id_.module, id_.kind, slot)
    text = None if pattern is None else rules[pattern]
    return None if pattern is None or text is None else (which, pattern, text)
