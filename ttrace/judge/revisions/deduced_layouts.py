"""What a disagreement says of a tensor whose layout was deduced from shapes.

Values that agree prove the layout. Where they do not, either the run or the layout is
wrong. It is the run where a parameter that all ranks had alike is another one on each
after the step. And where the layout was proven elsewhere: by the same tensor of another
micro-batch, step or layer; by another tensor of the module, or by one of which the same
axes divide as many samples, if nothing else that the ranks' values may be explains
them: parts in another order, partials, gradients of a mean over the samples of one
rank. Anything else is no verdict, but a doubt that is said: the tensor is skipped.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.layouts.deduced_layouts import DeducedLayout
from ttrace.compare.samples.samples import is_model_input
from ttrace.ir.kinds import GRADIENTS, PER_MICROBATCH, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.verdicts.replicas import differing_replicas
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A number in a module path, such as that of a layer."""

_MOST_TRIED = 3
"""Tensors of one name whose values are read again."""

_Name = tuple[TensorId, tuple[tuple[str, int], ...]]
"""A tensor of whichever layer, micro-batch and step; the dims that ranks divide."""

_MUCH_CLOSER = 0.1
"""Of the error of gradients, what remains where they are those of a mean over fewer
samples; other errors may come on top."""

_OF_A_PARAMETER = (Kind.MAIN_GRAD, Kind.CLIPPED_GRAD, Kind.UPDATED_PARAM)
"""What a step has of a parameter, under its name, behind all reductions."""

_DOUBTED = (Cause.ERROR, Cause.REPLICAS)
"""What a wrong layout can look like."""


def doubt_layouts(
    verdicts: Sequence[TensorVerdict],
    layouts: Mapping[TensorId, DeducedLayout],
    reference: TraceSource,
    candidate: TraceSource,
) -> tuple[TensorVerdict, ...]:
    """Skips what fails by a deduced layout that nothing proves; says the doubt.

    Args:
        verdicts: One per tensor.
        layouts: What was deduced.
        reference: The trusted run; only what failed is read.
        candidate: The run under test, likewise.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    if not layouts:
        return tuple(verdicts)
    doubts = _Doubts(verdicts, layouts, reference, candidate)
    return tuple(
        doubts.of(verdict)
        if verdict.id in layouts and verdict.cause in _DOUBTED
        else verdict
        for verdict in verdicts
    )


class _Doubts:
    """Tells failures of the run from those that the layout may explain."""

    def __init__(
        self,
        verdicts: Sequence[TensorVerdict],
        layouts: Mapping[TensorId, DeducedLayout],
        reference: TraceSource,
        candidate: TraceSource,
    ):
        self._layouts = layouts
        self._runs = (reference, candidate)
        agreed = {v.id for v in verdicts if v.id in layouts and _agrees(v)}
        self._proven = {self._name(id_) for id_ in agreed}
        self._proven_modules = {name.module for name, _ in self._proven}
        self._proven_samples = {
            samples
            for verdict in verdicts
            if verdict.id in agreed and (samples := self._samples_of(verdict))
        }
        self._explanations: dict[_Name, list[str]] = {}
        self._add_up: dict[_Name, list[bool]] = {}
        self._given_alike = {
            (verdict.id.module, verdict.id.slot)
            for verdict in verdicts
            if verdict.id.kind is Kind.PARAM and _agrees(verdict)
        }
        self._apart_after = {
            (side, verdict.id.step, verdict.id.module, verdict.id.slot)
            for verdict in verdicts
            for side in Side
            if verdict.id.kind is Kind.UPDATED_PARAM and _is_apart(verdict, side)
        }

    def of(self, verdict: TensorVerdict) -> TensorVerdict:
        """The verdict, or the doubt in its place."""
        layout = self._layouts[verdict.id]
        name = self._name(verdict.id)
        if name in self._proven or _agrees(verdict) or self._drifts(verdict):
            return verdict
        summed_over: tuple[str, ...] = ()
        if self._is_apart(verdict) and self._adds_up(verdict, name):
            doubt = _partials(verdict, layout)
            if layout.side is Side.CANDIDATE:
                summed_over = layout.undivided_axes
        elif self._is_apart(verdict):
            doubt = (
                f"over {', '.join(layout.undivided_axes)} each rank has a value of its "
                f"own: a partial, or of its own samples; {layout.unknown_reason}"
            )
        elif verdict.cause is Cause.REPLICAS:
            return verdict
        else:
            doubt = self._explanation(verdict, name)
            is_sure = (
                name[0].module in self._proven_modules
                or not layout.dims
                or self._samples_of(verdict) in self._proven_samples
                or is_model_input(verdict.id)  # no order of these samples agrees
            )
            if not doubt and is_sure:
                return verdict
            doubt = doubt or _doubt(
                layout,
                "its values do not agree so, and nothing else of this module shows "
                "that it is right",
            )
        return TensorVerdict(
            id=verdict.id,
            status=Status.SKIPPED,
            reason=f"{layout.side}: {doubt}",
            summed_over=summed_over,
        )

    def _adds_up(self, verdict: TensorVerdict, name: _Name) -> bool:
        """Whether values that differ from rank to rank sum up to the other run's."""
        tried = self._add_up.setdefault(name, [])
        if len(tried) < _MOST_TRIED and verdict.id.kind in PER_MICROBATCH:
            layout = self._layouts[verdict.id]
            result, tolerance = verdict.result, verdict.tolerance
            assert result is not None and tolerance is not None
            match = result.plan.match
            records = (match.reference, match.candidate)
            if layout.side is Side.REFERENCE:
                records = records[::-1]
            runs = {Side.REFERENCE: self._runs, Side.CANDIDATE: self._runs[::-1]}
            of_ranks, other = runs[layout.side]
            whole = _values(records[0], other)
            limit = tolerance.difference_norm
            tried.append(
                whole is not None
                and not np.linalg.norm(_sum(records[1], of_ranks) - whole) > limit
            )
            return tried[-1]
        return bool(tried) and all(tried)

    def _samples_of(
        self, verdict: TensorVerdict
    ) -> tuple[bool, tuple[str, ...], int] | None:
        """The axes that divide the first dim, if they divide no other; and its length.

        And whether it is of gradients, which have a factor of their own.
        """
        dims, result = self._layouts[verdict.id].dims, verdict.result
        if result is None or not dims or any(dims.values()):
            return None
        length = result.plan.match.reference.global_shape[0]
        return verdict.id.kind in GRADIENTS, tuple(dims), length

    def _name(self, id_: TensorId) -> _Name:
        module = _NUMBER.sub("*", id_.module)
        name = replace(
            id_, step=0, microbatch=0, call=0, module=module, pass_=Pass.FORWARD
        )
        return name, tuple(self._layouts[id_].dims.items())

    def _drifts(self, verdict: TensorVerdict) -> bool:
        """Whether a parameter was alike on all ranks, and is no more after the step.

        That, or what the optimizer was given or keeps for it: the values are no
        partials of anything then. Nor are initial values, of which one rank has those
        of the other run.
        """
        id_, slot = verdict.id, verdict.id.slot
        side = self._layouts[id_].side
        if not self._is_apart(verdict):
            return False
        if id_.kind is Kind.PARAM:
            return verdict.cause is Cause.REPLICAS
        if id_.kind is Kind.OPTIMIZER_STATE:
            slot = (slot or "").rpartition(".")[0]
        elif id_.kind not in _OF_A_PARAMETER:
            return False
        is_drifted = (side, id_.step, id_.module, slot) in self._apart_after
        return is_drifted and (id_.module, slot) in self._given_alike

    def _is_apart(self, verdict: TensorVerdict) -> bool:
        """Whether ranks that may be replicas have values of their own."""
        layout = self._layouts[verdict.id]
        return bool(layout.undivided_axes) and _is_apart(verdict, layout.side)

    def _explanation(self, verdict: TensorVerdict, name: _Name) -> str:
        """What else the ranks' values may be, that explains all that was tried."""
        tried = self._explanations.setdefault(name, [])
        if "" not in tried and len(tried) < _MOST_TRIED:
            tried.append(self._tried(verdict))
        return "" if "" in tried else tried[0]

    def _tried(self, verdict: TensorVerdict) -> str:
        layout = self._layouts[verdict.id]
        result, tolerance = verdict.result, verdict.tolerance
        assert result is not None and tolerance is not None
        match, limit = result.plan.match, tolerance.difference_norm
        if not layout.dims and verdict.id.kind not in PER_MICROBATCH:
            return ""  # what an optimizer is given is no partial
        values = [
            _values(record, run)
            for record, run in zip(
                (match.reference, match.candidate), self._runs, strict=True
            )
        ]
        reference, candidate = values
        if reference is None or candidate is None:
            return "its values cannot be put together"
        for dim in set(layout.dims.values()):
            difference = _slice_norms(candidate, dim) - _slice_norms(reference, dim)
            if not np.linalg.norm(difference) > limit:
                return _doubt(layout, "its values may agree in another order along it")
        ranks, whole = (
            (candidate, reference)
            if layout.side is Side.CANDIDATE
            else (reference, candidate)
        )
        partials = [layout.sizes[axis] for axis in layout.undivided_axes]
        for number in _products(partials):
            if not np.linalg.norm(ranks * number - whole) > limit:
                return _doubt(
                    layout, f"the sum over {number} ranks agrees, as that of partials"
                )
        if verdict.id.kind in GRADIENTS:
            error = np.linalg.norm(ranks - whole)
            of_samples = [layout.sizes[a] for a, dim in layout.dims.items() if dim == 0]
            for number in _products(of_samples):
                if np.linalg.norm(ranks / number - whole) < _MUCH_CLOSER * error:
                    return (
                        f"its values are {number} times those of the other run, as "
                        "gradients are of a mean over the samples of one rank: average "
                        "the loss over the ranks before it is differentiated, and they "
                        "are compared"
                    )
        return ""


def _partials(verdict: TensorVerdict, layout: DeducedLayout) -> str:
    """That they are such, and the text that says it."""
    result = verdict.result
    assert result is not None
    by_dim = {dim: axis for axis, dim in layout.dims.items()}
    dims = [
        f"d{dim}[{by_dim[dim]}]" if dim in by_dim else f"d{dim}"
        for dim in range(len(result.plan.match.reference.global_shape))
    ]
    axes = ",".join(layout.undivided_axes)
    name = f"{verdict.id.module}/{verdict.id.kind}/{verdict.id.slot or ''}"
    return (
        f"its ranks have partials: over {axes} they add up to the values of the other "
        f'run. Say so, and it is compared: dims={{"{name}": '
        f'"{" ".join([*dims, f"partial[{axes}]"])}"}}'
    )


def _sum(record: TensorRecord, run: TraceSource) -> np.ndarray:
    """float64, ``global_shape``: what all ranks have of each element, added up."""
    total = np.zeros(record.global_shape)
    for shard in record.shards:
        values = run.load(shard).astype(np.float64) / shard.scale
        for block in shard.layout.blocks:
            region, local = block.region, block.local_start
            ends = map(sum, zip(local, region.extent, strict=True))
            there = (*map(slice, region.start, region.stop), ...)
            total[there] += values[(*map(slice, local, ends), ...)]
    return total


def _doubt(layout: DeducedLayout, values: str) -> str:
    suggested = " and ".join(
        f"dim {dim} is sharded over {axis}" for axis, dim in layout.dims.items()
    )
    suggested = (
        suggested or f"ranks along {', '.join(layout.undivided_axes)} are replicas"
    )
    return (
        f"its shapes suggest that {suggested}, but {values}, so that the layout may be "
        f"wrong and not the run; {layout.unknown_reason}"
    )


def _products(sizes: Collection[int]) -> list[int]:
    """What sizes of axes, one or several of them, can multiply to; above one."""
    found = {1}
    for size in sizes:
        found |= {size * other for other in found}
    return sorted(found - {1})


def _is_apart(verdict: TensorVerdict, side: Side) -> bool:
    """Whether ranks of a run that hold the same part have values of their own."""
    result, tolerance = verdict.result, verdict.tolerance
    if result is None or tolerance is None:
        return False
    replicas = (
        result.candidate_replicas
        if side is Side.CANDIDATE
        else result.reference_replicas
    )
    return bool(differing_replicas(replicas, tolerance, exact=False))


def _agrees(verdict: TensorVerdict) -> bool:
    """Whether a tensor agrees as a whole; parts of it may not."""
    if verdict.status is Status.FAILED:
        return verdict.failed_part is not None
    return verdict.status is Status.PASSED and not verdict.noise_dominated


def _values(record: TensorRecord, run: TraceSource) -> np.ndarray | None:
    """float64, ``global_shape``: the logical tensor; None where it is not all there."""
    values = assembled(record, run)
    if values is None:
        return None
    return values.astype(np.float64) / record.shards[0].scale


def _slice_norms(values: np.ndarray, dim: int) -> np.ndarray:
    """float64, ``[indices of dim]``: Frobenius norms of the slices, ascending.

    Sorted, those of two tensors differ by no more than the slices do in the best of all
    orders.
    """
    rows = np.moveaxis(values, dim, 0).reshape(values.shape[dim], -1)
    return np.sort(np.linalg.norm(rows, axis=1))
