"""Queries, keys and values that agree, and that a tensor may be the attention of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.earlier_outputs import outputs_before
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_BEFORE = 6
"""Outputs before, among which queries, keys and values are looked for."""


HEAD_SIZES = (64, 128, 32, 16, 8, 80, 96, 256, 4, 48, 112, 192)
"""Elements of a head, usual ones first."""

_AS_WHOLES = "one after the other (3 h d)"
_BY_HEADS = "head by head (h 3 d)"
_BY_FEATURES = "element by element (h d 3)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """What an attention may be computed from, all of ``[samples, tokens, features]``.

    Attributes:
        query: The queries of all heads, one after the other.
        key: The keys.
        value: The values.
        samples_dim: Of the recorded tensors: 0, or 1 where tokens come first.
        joined: What all three are read from, ``[samples, tokens, 3 * features]``; None
            where they are tensors of their own, or heads of keys are fewer.
        reading: How they lie in it, in words.
        head_size: Of heads, where they are read by these; else None.
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    samples_dim: int
    joined: np.ndarray | None = None
    reading: str = ""
    head_size: int | None = None


def flat(values: np.ndarray, samples_dim: int) -> np.ndarray:
    """``[samples, tokens, features]``; a view where that can be."""
    whole = values.reshape(*values.shape[:2], -1)
    return whole if samples_dim == 0 else np.swapaxes(whole, 0, 1)


def sources_of(
    made: TensorId,
    shape: tuple[int, ...],
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
) -> Iterator[Sources]:
    """What it may be the attention of, the likeliest first.

    Args:
        made: What an attention returns, or the module behind it is given.
        shape: Of that: samples and tokens, or tokens and samples, and features.
        verdicts: On all tensors, in order of the dataflow.
        reference: The trusted run.
    """
    width = int(np.prod(shape[2:]))
    given = _inputs(made, verdicts)
    read = [values_of(id_, reference) for id_ in given[:3]]
    sets: list[list[np.ndarray]] = []
    if len(read) == 3 and all(_fits(v, shape) for v in read):
        sets.append([v for v in read if v is not None])
    before = [
        values
        for id_ in outputs_before(made, verdicts)[:_MOST_BEFORE]
        if (values := values_of(id_, reference)) is not None and _fits(values, shape)
    ]
    for samples_dim in (0, 1):
        for each in sets:
            three = [flat(values, samples_dim) for values in each]
            yield from _of_three(three, width, samples_dim)
        flats = [flat(values, samples_dim) for values in before]
        for whole in flats[:2]:
            yield from _of_joined(whole, width, samples_dim)
        if len(flats) > 2:
            value, key, query = flats[:3]
            yield from _of_three((query, key, value), width, samples_dim)
            yield from _of_three((query, value, key), width, samples_dim)


def given_masks(
    made: TensorId, verdicts: Sequence[TensorVerdict], reference: TraceSource
) -> Iterator[tuple[TensorId, np.ndarray]]:
    """Masks of that micro-batch that agree, or that the reference alone is given.

    Args:
        made: What an attention returns.
        verdicts: On all tensors.
        reference: The trusted run.

    Yields:
        Their id and values, bool; those of samples and tokens, or of queries and keys.
    """
    for verdict in verdicts:
        id_ = verdict.id
        if (
            id_.kind is not Kind.INPUT
            or (id_.step, id_.microbatch) != (made.step, made.microbatch)
            or verdict.status is Status.FAILED
            or id_ not in reference.info.tensors
        ):
            continue
        record = reference.info.tensors[id_]
        kind = dtype_named(record.shards[0].dtype).numpy.kind
        if kind not in "biu" or len(record.global_shape) < 2:
            continue
        values = values_of(id_, reference)
        if values is not None and np.isin(values, (0, 1)).all():
            yield id_, values.astype(bool)


def _inputs(made: TensorId, verdicts: Sequence[TensorVerdict]) -> list[TensorId]:
    """What the module is given, in order, where all of it agrees."""
    if made.kind is not Kind.OUTPUT:
        return []
    found = []
    for verdict in verdicts:
        if verdict.id == replace(made, kind=Kind.INPUT, slot=verdict.id.slot):
            if verdict.status is not Status.PASSED:
                return []
            found.append(verdict.id)
    return found


def _fits(values: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    return values is not None and values.ndim >= 3 and values.shape[:2] == shape[:2]


def _of_three(
    three: Sequence[np.ndarray], width: int, samples_dim: int
) -> Iterator[Sources]:
    query, key, value = three
    if query.shape[-1] == width and key.shape[-1] == value.shape[-1] <= width:
        if width % key.shape[-1] == 0:
            yield Sources(query=query, key=key, value=value, samples_dim=samples_dim)


def _of_joined(whole: np.ndarray, width: int, samples_dim: int) -> Iterator[Sources]:
    """Queries, keys and values that one linear makes, one after the other."""
    rest = whole.shape[-1] - width
    if rest <= 0 or rest % 2 or width % (rest // 2):
        return
    parts = np.split(whole, (width, width + rest // 2), axis=-1)
    sources = Sources(
        query=parts[0],
        key=parts[1],
        value=parts[2],
        samples_dim=samples_dim,
        joined=whole if rest == 2 * width else None,
        reading=_AS_WHOLES,
    )
    yield sources
    for size in HEAD_SIZES:
        if sources.joined is not None and width % size == 0:
            yield from (
                other
                for other in other_readings(sources, size)
                if other.reading == _BY_HEADS
            )


def other_readings(sources: Sources, head_size: int) -> Iterator[Sources]:
    """The same joined tensor, with queries, keys and values taken from other places.

    Args:
        sources: As the reference has them; nothing comes of three tensors.
        head_size: Elements of a head.
    """
    whole = sources.joined
    if whole is None:
        return
    tokens = whole.shape[:2]
    for names, pattern, to_front in (
        (_AS_WHOLES, (3, -1, head_size), 2),
        (_BY_HEADS, (-1, 3, head_size), 3),
        (_BY_FEATURES, (-1, head_size, 3), 4),
    ):
        if names != sources.reading:
            read = np.moveaxis(whole.reshape(*tokens, *pattern), to_front, 0)
            query, key, value = (part.reshape(*tokens, -1) for part in read)
            yield replace(
                sources,
                query=query,
                key=key,
                value=value,
                reading=names,
                head_size=head_size,
            )
