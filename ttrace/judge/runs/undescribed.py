"""Parameters of which each rank has a part, and nothing says so.

Parallelism that a script writes by hand looks like data parallelism to a frontend:
ranks that hold what they hold. Then nothing of what else differs is to be explained.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

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
    """

    parameters: tuple[ShorterParameter, ...]
    num_ranks: int
    are_parts: bool
    same_samples: bool


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
    return Undescribed(
        parameters=shorter,
        num_ranks=num_ranks,
        are_parts=_are_parts(shorter[0], reference, candidate),
        same_samples=len(same) == num_ranks - 1 and not any(same.values()),
    )


def _are_parts(
    one: ShorterParameter, reference: TraceSource, candidate: TraceSource
) -> bool:
    """Whether the values of the first ranks, in order, are the reference's."""
    shards = sorted(candidate.info.tensors[one.id].shards, key=lambda s: s.rank)
    (whole, *others) = reference.info.tensors[one.id].shards
    if len(shards) < one.factor or whole.layout.local_shape != one.reference:
        return False
    values = [candidate.load(shard) for shard in shards[: one.factor]]
    return np.array_equal(np.concatenate(values, one.dim), reference.load(whole))


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
    """The text to write, of parameters by pattern; layers are generalized."""
    texts: dict[str, str] = {}
    for one in found.parameters:
        path = re.sub(r"(?<![^.])\d+(?![^.])", "*", one.id.module)
        texts.setdefault(f"{path}/*/{one.id.slot}", _dims_text(one))
    shown = list(texts.items())[:_MAX_PATTERNS]
    rules = [f'"{pattern}": "{text}"' for pattern, text in shown]
    rules += ["..."] if len(shown) < len(texts) else []
    factors = {one.factor for one in found.parameters}
    size = f"{factors.pop()}" if len(factors) == 1 else "..."
    axes = f'sizes={{"tp": {size}}}, coords={{"tp": rank}}'
    return (
        f'DimsDescription(model, Mesh(name="ranks", {axes}), '
        f"parameters={{{', '.join([*rules, _REST])}}}, "
        'activations={"<path of a module>/output/*": "b s f[tp]", "*": "..."})'
    )


def _dims_text(one: ShorterParameter) -> str:
    names = [f"d{dim}" for dim in range(len(one.reference))]
    names[one.dim] += "[tp]"
    return " ".join(names)
