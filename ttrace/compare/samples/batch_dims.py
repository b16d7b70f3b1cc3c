"""Which dim of a tensor counts samples; from shapes and dims texts, never from values.

Where micro-batches of two runs have other sizes, the batch dim is the one whose length
follows them. Where they have one size, a dim is taken for it only if a dims text calls
it so, or if its length occurs nowhere else.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttrace.errors import LayoutError
from ttrace.ir.dims import Dims
from ttrace.ir.dims_text import parse_dims

BATCH_NAMES = frozenset({"b", "batch"})
"""What dims texts call the dim of samples."""

Shape = tuple[int, ...]

Described = tuple[Shape, str]
"""A logical shape, and the dims text of the layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDims:
    """Where the inputs of a model count samples.

    Attributes:
        dims: The dim of each slot that has one.
        is_usual: Of some slot it is the first dim, or a dims text names it. Where it is
            neither, only rows that are equal in both runs say that it counts samples.
    """

    dims: Mapping[str, int]
    is_usual: bool


def possible_batch_dims(
    reference: Mapping[int, Mapping[str, Described]],
    candidate: Mapping[int, Mapping[str, Described]],
) -> Iterator[BatchDims]:
    """The dims of a model's inputs that may count samples, the likeliest ones first.

    Args:
        reference: Shapes and dims texts by micro-batch and slot; of every micro-batch
            the same slots.
        candidate: Likewise.
    """
    of_slots: dict[str, list[Described]] = {}
    runs = (reference, candidate)
    slots = [set(next(iter(run.values()))) for run in runs]
    for slot in sorted(set.intersection(*slots)):
        of_slots[slot] = [one[slot] for run in runs for one in run.values()]
    varying: dict[str, int] = {}
    for slot, described in of_slots.items():
        dims = _varying_dims([shape for shape, _ in described])
        if dims is None or len(dims) > 1:
            return  # other lengths, too: rows cannot be equal
        if dims:
            (varying[slot],) = dims
    if varying:
        lengths = {
            tuple(shape[dim] for shape, _ in of_slots[slot])
            for slot, dim in varying.items()
        }
        if len(lengths) == 1:
            yield BatchDims(dims=varying, is_usual=_is_usual(varying, of_slots))
        return
    possible: list[dict[str, int]] = []
    leading = {slot: _leading_dims(described) for slot, described in of_slots.items()}
    shapes = {slot: described[0][0] for slot, described in of_slots.items()}
    for slot, shape in shapes.items():
        for dim in leading[slot]:
            of_size = {
                other: [d for d in leading[other] if shapes[other][d] == shape[dim]]
                for other in of_slots
            }
            dims = {slot: found[0] for slot, found in of_size.items() if found}
            if dims not in possible:
                possible.append(dims)
    named = {slot for slot in of_slots if _is_named(of_slots[slot], leading[slot])}
    for dims in (
        [dims for dims in possible if named & dims.keys()]
        or [dims for dims in possible if not _counts_positions(dims, shapes)]
        or possible
    ):
        yield BatchDims(dims=dims, is_usual=_is_usual(dims, of_slots))


def batch_dim(
    reference: Sequence[Described],
    candidate: Sequence[Described],
    *,
    sizes: tuple[Sequence[int], Sequence[int]],
    other_lengths: Collection[int],
    is_in_order: bool = False,
) -> int | str:
    """The dim of a tensor that counts samples, or why it is not known.

    Args:
        reference: Shape and dims text of the tensor in each micro-batch that has it.
        candidate: Likewise.
        sizes: Number of samples of these micro-batches, of either run.
        other_lengths: Lengths of dims that do not count samples: of parameters, and of
            the other dims of the model's inputs.
        is_in_order: Every micro-batch has the samples of one of the other run, and in
            the same order: then any dim of their number may be taken for theirs.
    """
    described = [*reference, *candidate]
    expected = (*sizes[0], *sizes[1])
    dims = _varying_dims([shape for shape, _ in described])
    if dims is None:
        return "it has not as many dims in every micro-batch"
    if len(set(expected)) > 1:
        if not dims:
            return "no dim of it counts samples"
        if len(dims) > 1:
            return "more of it than the number of samples differs"
        (dim,) = dims
        if tuple(shape[dim] for shape, _ in described) == expected:
            return dim
        return f"dim {dim} of it counts something else than samples"
    if dims:
        return "its shape differs where the number of samples does not"
    size = expected[0]
    (shape, text), *_ = described
    named = [dim for dim, name in enumerate(dim_names(text)) if name in BATCH_NAMES]
    if len(named) == 1 and shape[named[0]] == size:
        return named[0]
    of_size = [dim for dim, length in enumerate(shape) if length == size]
    if not of_size:
        return "no dim of it counts samples"
    is_in_order = is_in_order and len(shape) > 1  # not what an expert has of its own
    if not is_in_order and (len(of_size) > 1 or size in other_lengths):
        return f"which dim of it counts samples is not known: {ambiguity(size)}"
    return of_size[0]


def ambiguity(size: int) -> str:
    """Why a dim as long as there are samples need not count them, and what to do."""
    return (
        f"{size} samples in a micro-batch, and that is also the length of another dim; "
        "with a number of samples that is no length in the model it would be"
    )


def _varying_dims(shapes: Sequence[Shape]) -> list[int] | None:
    """The dims whose length is not the same everywhere; None where ranks differ."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    return [
        dim
        for dim, lengths in enumerate(zip(*shapes, strict=True))
        if len(set(lengths)) > 1
    ]


def _is_usual(
    dims: Mapping[str, int], described: Mapping[str, Sequence[Described]]
) -> bool:
    return any(
        dim == 0
        or dim_names(described[slot][0][1])[dim : dim + 1] in (["b"], ["batch"])
        for slot, dim in dims.items()
    )


def _is_named(described: Sequence[Described], leading: Sequence[int]) -> bool:
    """Whether a text says which dim of an input counts samples."""
    return any(
        dim_names(text)[dim : dim + 1] in (["b"], ["batch"])
        for _, text in described
        for dim in leading
    )


def _counts_positions(dims: Mapping[str, int], shapes: Mapping[str, Shape]) -> bool:
    """Whether the inputs that have such dims hold one number for each position.

    Such as ``[positions]`` beside ``[samples, positions]``: they have no other dim, and
    an input that has more counts something else first.
    """
    if any(len(shapes[slot]) > 1 for slot in dims):
        return False
    size = next(shapes[slot][dim] for slot, dim in dims.items())
    others = (shape for slot, shape in shapes.items() if slot not in dims)
    return any(size in shape[1:] and shape[0] > 1 for shape in others)


def _leading_dims(described: Sequence[Described]) -> list[int]:
    """The dims of an input that may count samples: by name, else of the first two.

    What cuts the second dim and leaves the first one whole cuts positions: samples
    come first, and those that ranks share out are in micro-batches of their own.

    Args:
        described: The input in every micro-batch of both runs, all of one shape.
    """
    texts = dict.fromkeys(text for _, text in described)
    for text in texts:
        names = dim_names(text)
        named = [dim for dim, name in enumerate(names) if name in BATCH_NAMES]
        if len(named) == 1:
            return named
    leading = list(range(min(2, len(described[0][0]))))
    cut = {dim for text in texts for dim in cut_dims(text)}
    return leading if 0 in cut else [dim for dim in leading if dim not in cut]


def cut_dims(text: str) -> list[int]:
    """The dims that axes cut by a dims text; none of what is flattened."""
    dims = _parsed(text)
    if dims is None or dims.flat_cuts:
        return []
    return [index for index, dim in enumerate(dims.dims) if dim.splits]


def dim_names(text: str) -> list[str]:
    """The names of the dims in a dims text; none where it names none."""
    dims = _parsed(text)
    return [] if dims is None else [dim.name for dim in dims.dims]


def _parsed(text: str) -> Dims | None:
    try:
        return parse_dims(text) if text else None
    except LayoutError:
        return None
