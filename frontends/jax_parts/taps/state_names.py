"""Names of what an optimizer keeps: for a parameter, or for the whole model."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.ir.tensor_id import ROOT_MODULE

_BOX = GetAttrKey("value")
"""Ends the path of an array that lies in a box: an NNX variable, say."""

Keys = tuple[Any, ...]
Name = tuple[str, str]
"""Module and slot."""


def state_names(
    paths: Iterable[Sequence[Any]], params: Any, state: Any = None
) -> list[Name]:
    """Names of the leaves of an optimizer's state.

    What is kept for a parameter ends with that parameter's path, after at least one
    field of a state. It is of the parameter's module and in slot ``kernel.mu``; all
    else is of the model itself, in a slot such as ``count``. A name begins with the
    last such field. Where two parts of a state, say of two links of a chain, would have
    the same name, it begins with the kind of state that has the field:
    ``ScaleByScheduleState.count``; but for that of the only one that keeps something
    for parameters. What a wrapper keeps beside the state of what is in it always begins
    so: ``ApplyIfFiniteState.notfinite_count``. Where that is not enough, it is the
    whole path, without the numbers of links where they are not needed: a link more in
    front is no other state.

    Args:
        paths: Of the leaves, as ``jax.tree_util`` gives them.
        params: A tree of all parameters, or of their gradients.
        state: What the paths lead through; where None, the kinds of states are not
            known.
    """
    owners = {
        _unboxed(path): parameter_name(path_segments(path))
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    owned = [_owner(_unboxed(path), owners) for path in paths]
    nodes = [keys[: _last_field(keys)] for _, keys in owned]
    with_parameters = {
        node for node, (owner, _) in zip(nodes, owned, strict=True) if owner is not None
    }
    choices: list[list[Name]] = []
    for node, (owner, keys) in zip(nodes, owned, strict=True):
        last = len(node)
        kind = _kind_of_state(state, node)
        of_kind = _name(owner, (*((DictKey(kind),) if kind else ()), *keys[last:]))
        is_beside = owner is None and _is_wrapper(_at(state, node))
        choices.append(
            [
                of_kind if is_beside else _name(owner, keys[last:]),
                of_kind,
                _name(owner, tuple(k for k in keys if not isinstance(k, SequenceKey))),
                _name(owner, keys),
            ]
        )
    uses = [collections.Counter(names) for names in zip(*choices, strict=True)]
    foremost = collections.Counter(
        names[0]
        for names, node in zip(choices, nodes, strict=True)
        if node in with_parameters
    )
    return [
        names[0]
        if node in with_parameters and foremost[names[0]] == 1
        else next(
            (name for name, used in zip(names, uses, strict=True) if used[name] == 1),
            names[-1],
        )
        for names, node in zip(choices, nodes, strict=True)
    ]


def _is_wrapper(node: Any) -> bool:
    """Whether a state is that of a transformation around another one."""
    return "inner_state" in getattr(node, "_fields", ())


def _kind_of_state(state: Any, keys: Sequence[Any]) -> str:
    """Name of the class of what lies at a path; empty where that is not known."""
    node = _at(state, keys)
    return "" if node is None else type(node).__name__


def _at(state: Any, keys: Sequence[Any]) -> Any:
    """What lies at a path; None where that is not known."""
    for key in keys:
        if isinstance(key, GetAttrKey):
            state = getattr(state, key.name, None)
        elif isinstance(key, SequenceKey | DictKey):
            index = key.idx if isinstance(key, SequenceKey) else key.key
            try:
                state = state[index]
            except (KeyError, IndexError, TypeError):
                return None
        else:
            return None
    return state


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
