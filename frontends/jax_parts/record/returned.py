"""Where a step returns what it was given: from the paths in both trees, no arrays.

A step is ``(state, batch) -> (state, metrics)``, ``(params, opt_state, batch) ->
(params, opt_state, loss)`` or the like: what it returns of its arguments lies there
under the path at which it was given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Path = tuple[str, ...]
"""Keys from the root of a tree, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """An array in a tree.

    Attributes:
        path: The way to it. For arguments it begins with the position or the keyword.
        shape: Its shape.
        dtype: Name of its dtype.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str


def returned_leaves(
    wanted: Iterable[int], arguments: Sequence[Leaf], results: Sequence[Leaf]
) -> dict[int, int]:
    """Finds arguments of a step in its result.

    An argument is looked for under its path without position or keyword, in the result
    or one level below, in equal shape and dtype. Where several arguments have the same
    such path, or several results, it is the result at the same position, unless the
    step returns others of them as well, at positions where it was given none. Where
    nothing is found, it is looked for under its path with the position.

    Args:
        wanted: Indices of arguments.
        arguments: All of them.
        results: The whole result.

    Returns:
        By index of the argument, the index of the result; arguments whose place is not
        known are not there.
    """
    given = _places(arguments, [1])
    returned = _places(results, [0, 1])
    found = {}
    for index in wanted:
        own = arguments[index]
        position = own.path[:1]
        sources = given[own.path[1:], own.shape, own.dtype]
        targets = returned.get((own.path[1:], own.shape, own.dtype), {})
        if not targets:
            sources = {position: index}
            targets = returned.get((own.path, own.shape, own.dtype), {})
        if position in targets and targets.keys() <= sources.keys():
            found[index] = targets[position]
        elif len(sources) == len(targets) == 1:
            (found[index],) = targets.values()
    return found


def _places(
    leaves: Sequence[Leaf], num_before: Iterable[int]
) -> Mapping[tuple[Path, tuple[int, ...], str], dict[Path, int]]:
    """Indices of leaves, by what is below and then by what is before."""
    places: dict[tuple[Path, tuple[int, ...], str], dict[Path, int]] = {}
    for number in num_before:
        for index, leaf in enumerate(leaves):
            if len(leaf.path) >= number:
                before, below = leaf.path[:number], leaf.path[number:]
                key = (below, leaf.shape, leaf.dtype)
                places.setdefault(key, {})[before] = index
    return places
