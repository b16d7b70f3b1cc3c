"""Parameters of which each rank has a part, and nothing says so.

Parallelism that a script writes by hand looks like data parallelism to a frontend:
ranks that hold what they hold. Then nothing of what else differs is to be explained.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.written_dims import has_written
from ttrace.judge.runs.rank_samples import ranks_with_samples_of_others

_FRAMEWORK = "torch"
"""Whose frontend takes ranks for data-parallel ones, where it knows no better."""

_MAX_NAMED = 3

_MAX_PATTERNS = 6

_MAX_PARTS = 16
"""Parts of a dim that a rank has its share of each of."""

_REST = '"*": "..."'

_PAGE = '"Your own parallel code" in docs/torch.md'


@dataclass(frozen=True, slots=True, kw_only=True)
class ShorterParameter:
    """A parameter that every rank of the candidate has shorter than the reference.

    Attributes:
        id: Of the initial parameter.
        reference: Its logical shape.
        candidate: What each rank has.
        dim: The dim that is shorter.
        factor: The reference's is so many times as long.
    """

    id: TensorId
    reference: tuple[int, ...]
    candidate: tuple[int, ...]
    dim: int
    factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Undescribed:
    """Hand-written sharding that nothing describes.

    Attributes:
        parameters: All whose shapes differ.
        num_ranks: Of the candidate.
        are_parts: The ranks' first one, in rank order, is the reference's, bit for bit.
        same_samples: All ranks were given the same ones.
        axis: Of the mesh of parameters whose layout is known, the one that those
            without lie along; empty where nothing is known of any.
        rules: Dims text by pattern, of these parameters and of what their modules
            return; in the order in which they are to be written.
        are_more: There are parameters beside those of the rules.
    """

    parameters: tuple[ShorterParameter, ...]
    num_ranks: int
    are_parts: bool
    same_samples: bool
    axis: str = ""
    rules: tuple[tuple[str, str], ...] = ()
    are_more: bool = False


def shorter_parameters(
    pairs: Iterable[tuple[TensorRecord, TensorRecord]], candidate: TraceInfo
) -> tuple[ShorterParameter, ...]:
    """The initial parameters that ranks of the candidate may have parts of.

    Args:
        pairs: Tensors of the reference and of the candidate that go together.
        candidate: The run under test.

    Returns:
        All whose shapes differ, where each differs by one dim, of which the reference
        has a multiple that divides the number of ranks. None otherwise: nor of a run on
        one rank, or whose layouts somebody has written.
    """
    first = candidate.ranks[0]
    is_asked = first.framework == _FRAMEWORK and first.world_size > 1
    if not is_asked or has_written(first.settings):
        return ()
    found = []
    for reference, record in pairs:
        shapes = reference.global_shape, record.global_shape
        if record.id.kind is not Kind.PARAM or shapes[0] == shapes[1]:
            continue
        if len(shapes[0]) != len(shapes[1]) or any(
            shard.layout.local_shape != shapes[1] for shard in record.shards
        ):
            return ()
        sizes = list(zip(*shapes, strict=True))
        dims = [dim for dim, (ours, theirs) in enumerate(sizes) if ours != theirs]
        factor, rest = divmod(shapes[0][dims[0]], shapes[1][dims[0]] or 1)
        if len(dims) > 1 or rest or factor < 2 or first.world_size % factor:
            return ()
        found.append(
            ShorterParameter(
                id=record.id,
                reference=shapes[0],
                candidate=shapes[1],
                dim=dims[0],
                factor=factor,
            )
        )
    return tuple(found)


def find_undescribed(
    reference: TraceSource, candidate: TraceSource, own_microbatches: TraceSource
) -> Undescribed | None:
    """Looks for them, and reads whether they are parts indeed.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        own_microbatches: The same with the micro-batches that it had.
    """
    known = reference.info.tensors
    shorter = shorter_parameters(
        [
            (known[id_], record)
            for id_, record in candidate.info.tensors.items()
            if id_.kind is Kind.PARAM and id_ in known
        ],
        candidate.info,
    )
    if not shorter:
        return None
    num_ranks = candidate.info.ranks[0].world_size
    step = min((id_.step for id_ in own_microbatches.info.tensors), default=0)
    same = ranks_with_samples_of_others(own_microbatches, step)
    axis = _known_axis(shorter[0], candidate.info)
    by_pattern: dict[str, ShorterParameter] = {}
    for one in shorter:
        path = re.sub(r"(?<![^.])\d+(?![^.])", "*", one.id.module)
        by_pattern.setdefault(f"{path}/*/{one.id.slot}", one)
    rules: dict[str, str] = {}
    for pattern, one in list(by_pattern.items())[:_MAX_PATTERNS]:
        split = f"[{axis or 'tp'}{_order(one, reference, candidate) or ''}]"
        rules[pattern] = _dims_text(len(one.reference), one.dim, split)
        if axis:
            path = pattern.partition("/")[0]
            rules |= _of_outputs(one, path, split, reference, own_microbatches)
    return Undescribed(
        parameters=shorter,
        num_ranks=num_ranks,
        are_parts=_order(shorter[0], reference, candidate) == "",
        same_samples=len(same) == num_ranks - 1 and not any(same.values()),
        axis=axis,
        rules=tuple(rules.items()),
        are_more=len(by_pattern) > _MAX_PATTERNS,
    )


def _known_axis(one: ShorterParameter, info: TraceInfo) -> str:
    """The axis over which the run says itself that it cuts other parameters."""
    for id_, record in info.tensors.items():
        if id_.kind is not Kind.PARAM:
            continue
        layout = record.shards[0].layout
        if layout.local_shape == record.global_shape:
            continue
        for mesh in info.ranks[0].meshes:
            for axis, size in mesh.sizes.items():
                if mesh.name == layout.mesh and size == one.factor:
                    return axis
    return ""


def _order(
    one: ShorterParameter, reference: TraceSource, candidate: TraceSource
) -> str | None:
    """How the ranks' parts, in rank order, make up the reference's, bit for bit.

    Returns:
        Nothing more to write of the dim where each rank has one piece; ``:parts(3)`` or
        the lengths of the parts, where it has its share of each of several parts that
        lie one behind the other, as queries, keys and values do. None where neither
        does.
    """
    shards = sorted(candidate.info.tensors[one.id].shards, key=lambda s: s.rank)
    (whole, *_) = reference.info.tensors[one.id].shards
    if len(shards) < one.factor or whole.layout.local_shape != one.reference:
        return None
    right = np.moveaxis(reference.load(whole), one.dim, 0)
    values = [
        np.moveaxis(candidate.load(shard), one.dim, 0) for shard in shards[: one.factor]
    ]
    lengths = _runs(values[0], right)
    parts = np.cumsum(lengths)[:-1]
    pieces = [np.split(each, parts) for each in values]
    made = [piece for part in zip(*pieces, strict=True) for piece in part]
    if not np.array_equal(np.concatenate(made), right):
        return None
    if len(lengths) == 1:
        return ""
    is_even = len(set(lengths)) == 1
    sizes = [length * one.factor for length in lengths]
    return f":parts({len(lengths) if is_even else ','.join(map(str, sizes))})"


def _runs(rows: np.ndarray, right: np.ndarray) -> list[int]:
    """Lengths of the runs of rows that lie one behind the other in the reference."""
    places: dict[bytes, int] = {}
    for index, row in enumerate(right):
        places.setdefault(row.tobytes(), index)
    found = [places.get(row.tobytes()) for row in rows]
    lengths = [1]
    for before, after in pairwise(found):
        if before is not None and after == before + 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths if len(lengths) <= _MAX_PARTS else [len(rows)]


def _of_outputs(
    one: ShorterParameter,
    path: str,
    split: str,
    reference: TraceSource,
    candidate: TraceSource,
) -> dict[str, str]:
    """The texts of outputs that are shorter by as much in their last dim."""
    texts = {}
    for id_, record in candidate.info.tensors.items():
        if id_.kind is not Kind.OUTPUT or id_.module != one.id.module:
            continue
        right = reference.info.tensors.get(id_)
        if right is None or not record.global_shape or one.dim:
            continue
        local = record.shards[0].layout.local_shape
        if len(local) != len(right.global_shape):
            continue
        if local[-1] * one.factor == right.global_shape[-1]:
            last = len(local) - 1
            texts[f"{path}/output/{id_.slot}"] = _dims_text(len(local), last, split)
    return texts


def undescribed_sentence(found: Undescribed) -> str:
    """What to say of them in place of all else."""
    named = ", ".join(
        f"{one.id.module}/{one.id.slot} has {list(one.candidate)} of "
        f"{list(one.reference)} (dim {one.dim}, 1/{one.factor})"
        for one in found.parameters[:_MAX_NAMED]
    )
    num_more = len(found.parameters) - _MAX_NAMED
    more = f", and {num_more} more" if num_more > 0 else ""
    parts = (
        " Put together in rank order they are the reference's."
        if found.are_parts
        else ""
    )
    samples = " All ranks are given the same samples." if found.same_samples else ""
    return (
        "Set-up differs: parameters of the candidate's ranks are shorter than the "
        f"reference's, and nothing describes how they lie on its {found.num_ranks} "
        f"ranks: {named}{more}.{parts}{samples} Describe them, as {_PAGE} says: "
        f"{_description(found)}; nothing else of this comparison can be told before. "
        "If the ranks are to have no parts of them, build both models of the same size."
    )


def _description(found: Undescribed) -> str:
    """The text to write, of parameters by pattern; layers are generalized.

    Where the run knows how others lie, that is kept, and no description of all asked
    for.
    """
    rules = [f'"{pattern}": "{text}"' for pattern, text in found.rules]
    rules += ["..."] if found.are_more else []
    if found.axis:
        return f"torch_capture.trace(..., dims={{{', '.join(rules)}}})"
    factors = {one.factor for one in found.parameters}
    size = f"{factors.pop()}" if len(factors) == 1 else "..."
    axes = f'sizes={{"tp": {size}}}, coords={{"tp": rank}}'
    return (
        f'DimsDescription(model, Mesh(name="ranks", {axes}), '
        f"parameters={{{', '.join([*rules, _REST])}}}, "
        'activations={"<path of a module>/output/*": "b s f[tp]", "*": "..."})'
    )


def _dims_text(num_dims: int, dim: int, split: str) -> str:
    names = [f"d{number}" for number in range(num_dims)]
    names[dim] += split
    return " ".join(names)
