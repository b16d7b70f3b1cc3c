"""Names of what an optimizer keeps: for a parameter, or for the whole model."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.ir.tensor_id import ROOT_MODULE

_BOX = GetAttrKey("value")
"""Ends the path of an array that lies in a box: an NNX variable, say."""

Keys = tuple[Any, ...]
Name = tuple[str, str]
"""Module and slot."""


def state_names(paths: Iterable[Sequence[Any]], params: Any) -> list[Name]:
    """Names of the leaves of an optimizer's state.

    What is kept for a parameter ends with that parameter's path, after at least one
    field of a state. It is of the parameter's module and in slot ``kernel.mu``; all
    else is of the model itself, in a slot such as ``count``. A name begins with the
    last such field; where two parts of a state, say of two links of a chain, would have
    the same name, it is the whole path: ``kernel.0.mu``.

    Args:
        paths: Of the leaves, as ``jax.tree_util`` gives them.
        params: A tree of all parameters, or of their gradients.
    """
    owners = {
        _unboxed(path): parameter_name(path_segments(path))
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    short, full = [], []
    for path in paths:
        owner, keys = _owner(_unboxed(path), owners)
        short.append(_name(owner, keys[_last_field(keys) :]))
        full.append(_name(owner, keys))
    uses = collections.Counter(short)
    return [
        name if uses[name] == 1 else longer
        for name, longer in zip(short, full, strict=True)
    ]


def _unboxed(path: Sequence[Any]) -> Keys:
    keys = tuple(path)
    return keys[:-1] if keys and keys[-1] == _BOX else keys


def _owner(keys: Keys, owners: dict[Keys, Name]) -> tuple[Name | None, Keys]:
    """What a leaf is kept for, and the keys that say what it is."""
    for start in range(1, len(keys) + 1):
        before, rest = keys[:start], keys[start:]
        if rest in owners and any(isinstance(key, GetAttrKey) for key in before):
            return owners[rest], before
    return None, keys


def _last_field(keys: Keys) -> int:
    fields = [index for index, key in enumerate(keys) if isinstance(key, GetAttrKey)]
    return fields[-1] if fields else 0


def _name(owner: Name | None, keys: Keys) -> Name:
    what = ".".join(path_segments(keys)) or "state"
    if owner is None:
        return ROOT_MODULE, what
    module, slot = owner
    return module, f"{slot}.{what}"
