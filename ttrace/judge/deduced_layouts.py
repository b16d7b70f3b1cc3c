"""What a disagreement says of a tensor whose layout was deduced from shapes.

Values that agree prove the layout. Where they do not, either the run or the layout is
wrong. It is the run where the layout was proven elsewhere: by the same tensor of
another micro-batch, step or layer; or by another tensor of the module, if no other
order of the ranks' parts explains the values. Anything else is no verdict, but a doubt
that is said: the tensor is skipped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.deduced_layouts import DeducedLayout
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.verdict import Cause, Status, TensorVerdict

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A number in a module path, such as that of a layer."""

_MOST_TRIED = 3
"""Tensors of one name whose values are read again."""

_Name = tuple[TensorId, int]
"""A tensor of whichever layer, micro-batch and step, and the dim that ranks divide."""


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
        if verdict.id in layouts and verdict.cause is Cause.ERROR
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
        agreed = [v.id for v in verdicts if v.id in layouts and _agrees(v)]
        self._proven = {self._name(id_) for id_ in agreed}
        self._proven_modules = {name.module for name, _ in self._proven}
        self._is_explained: dict[_Name, list[bool]] = {}

    def of(self, verdict: TensorVerdict) -> TensorVerdict:
        """The verdict, or the doubt in its place."""
        layout = self._layouts[verdict.id]
        name = self._name(verdict.id)
        if name in self._proven or _agrees(verdict):
            return verdict
        is_explained = self._explained_by_order(verdict, name, layout.dim)
        if not is_explained and name[0].module in self._proven_modules:
            return verdict
        order = (
            "they would in another order along it"
            if is_explained
            else "neither does anything else of this module show that it is right"
        )
        return TensorVerdict(
            id=verdict.id,
            status=Status.SKIPPED,
            reason=f"{layout.side}: its shapes suggest that dim {layout.dim} is "
            f"sharded over {layout.axis}, but the values do not agree so "
            f"({verdict.reason}), and {order}, so that the layout may be wrong and not "
            f"the run; {layout.unknown_reason}",
        )

    def _name(self, id_: TensorId) -> _Name:
        module = _NUMBER.sub("*", id_.module)
        name = replace(
            id_, step=0, microbatch=0, call=0, module=module, pass_=Pass.FORWARD
        )
        return name, self._layouts[id_].dim

    def _explained_by_order(
        self, verdict: TensorVerdict, name: _Name, dim: int
    ) -> bool:
        """Whether another order of the indices along a dim may explain a difference.

        Norms of the slices, sorted, differ by no more than the slices do in the best
        of all orders.
        """
        tried = self._is_explained.setdefault(name, [])
        if False not in tried and len(tried) < _MOST_TRIED:
            result, tolerance = verdict.result, verdict.tolerance
            assert result is not None and tolerance is not None
            match = result.plan.match
            norms = [
                _slice_norms(record, run, dim)
                for record, run in zip(
                    (match.reference, match.candidate), self._runs, strict=True
                )
            ]
            difference = np.linalg.norm(norms[1] - norms[0])
            tried.append(not difference > tolerance.difference_norm)
        return False not in tried


def _agrees(verdict: TensorVerdict) -> bool:
    """Whether a tensor agrees as a whole; parts of it may not."""
    if verdict.status is Status.FAILED:
        return verdict.failed_part is not None
    return verdict.status is Status.PASSED and not verdict.noise_dominated


def _slice_norms(record: TensorRecord, run: TraceSource, dim: int) -> np.ndarray:
    """float64, ``[indices of dim]``: Frobenius norms of the slices, ascending.

    NaN where the tensor cannot be put together, which no order explains or excludes.
    """
    values = assembled(record, run)
    if values is None:
        return np.full(1, np.nan)
    rows = np.moveaxis(values, dim, 0).reshape(values.shape[dim], -1)
    rows = rows.astype(np.float64) / record.shards[0].scale
    return np.sort(np.linalg.norm(rows, axis=1))
