"""Layouts that the user writes: dims text by pattern of module, kind and slot."""

from collections.abc import Mapping
from dataclasses import replace

from ttrace.errors import LayoutError
from ttrace.frontends.torch_parts.local_tensor import NoLayout, RecordedElsewhere
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.open_dims import with_rest
from ttrace.ir.splits import Split
from ttrace.ir.written_dims import first_match, match_of_tensor

DimsRules = Mapping[str, str | NoLayout | RecordedElsewhere]
"""Dims text by pattern, or why there is none. The first pattern that matches counts.

A pattern without ``/`` is matched against the module path (``blocks.*.norm1``), any
other one against ``module/kind/slot`` (``*.fc2/*/weight``, ``*.core/*input/*`` for the
input and its gradient). The text may end in ``...``, before ``partial[...]`` if there
is one: all further dims, uncut.
"""


def layout_by_rules(
    which: str,
    rules: DimsRules,
    path: str,
    kind: Kind,
    slot: str,
    local_shape: tuple[int, ...],
    mesh: Mesh,
) -> ShardLayout | NoLayout | RecordedElsewhere | None:
    """The layout of a plain tensor by the first pattern that matches; None by none.

    Args:
        which: What the user calls the rules.
        rules: As given.
        path: Canonical path of the module.
        kind: What the tensor is.
        slot: Which one.
        local_shape: Of what this rank has.
        mesh: The axes that the texts speak of.

    Raises:
        LayoutError: The text does not fit the tensor.
    """
    pattern = first_match(rules, path, kind, slot)
    return _lowered(which, rules, pattern, local_shape, mesh)


def layout_as_tensor(
    which: str,
    rules: DimsRules,
    path: str,
    kind: Kind,
    slot: str,
    local_shape: tuple[int, ...],
    mesh: Mesh,
) -> ShardLayout | NoLayout | RecordedElsewhere | None:
    """As ``layout_by_rules``; what has no pattern of its own lies as what it is of."""
    pattern = match_of_tensor(rules, path, kind, slot)
    layout = _lowered(which, rules, pattern, local_shape, mesh)
    if pattern != first_match(rules, path, kind, slot):
        if isinstance(layout, ShardLayout) and layout.partial_axes:
            # The gradient of a sum is that of each of its partials.
            names = layout.dims and layout.dims.partition(" partial[")[0]
            return replace(layout, partial_axes=(), dims=names)
    return layout


def _lowered(
    which: str,
    rules: DimsRules,
    pattern: str | None,
    local_shape: tuple[int, ...],
    mesh: Mesh,
) -> ShardLayout | NoLayout | RecordedElsewhere | None:
    if pattern is None:
        return None
    text = rules[pattern]
    if not isinstance(text, str):
        return text
    dims = parse_dims(with_rest(text, len(local_shape)))
    try:
        return dims.lower_local(local_shape, mesh)
    except LayoutError as error:
        raise LayoutError(
            error.what,
            where=f"{which}, {pattern!r}: {text!r}",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from error


def require_axes(rules: DimsRules, mesh: Mesh) -> None:
    """Checks that texts can be read and name axes of a mesh.

    Raises:
        LayoutError: They cannot, or do not.
    """
    for pattern, text in rules.items():
        if not isinstance(text, str):
            continue
        dims = parse_dims(with_rest(text, 0))
        splits = [split for dim in dims.dims for split in dim.splits]
        splits += [cut for cut in dims.flat_cuts if isinstance(cut, Split)]
        for axis in (*(split.axis for split in splits), *dims.partial_axes):
            if axis not in mesh.sizes:
                raise no_such_axis(f"{pattern}: {text}", axis, mesh)


def no_such_axis(where: str, axis: str, mesh: Mesh) -> LayoutError:
    """The error of a description that names an axis that is not there."""
    return LayoutError(
        "a description names an axis that its mesh does not have",
        where=where,
        expected=f"one of {', '.join(mesh.sizes)}",
        got=axis,
        remedy="correct the axis, or give the mesh its size",
    )
