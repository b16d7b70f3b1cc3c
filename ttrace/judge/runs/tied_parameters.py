"""Parameters that one run ties: copies that are trained apart in the other one.

Reads the gradients that optimizers are given, of the copy and of what it is a copy of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.tied import Copy, Name, Untied
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST_EXPLAINED = 0.95
"""Of the norm of the difference, that the gradient of the other one must explain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTie:
    """A parameter that one run has twice, each of which is trained on its own.

    Attributes:
        copy: The parameter.
        lies_apart: No rank has both.
        step: In which the gradients of both add up to that of the one parameter of the
            other run, and neither is that alone; None if there is none, or it is not
            known.
    """

    copy: Copy
    lies_apart: bool
    step: int | None


def find_split_ties(
    untied: Untied,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
) -> tuple[SplitTie, ...]:
    """Copies that are parameters of their own, where gradients show it or ids do.

    Copies on ranks of their own may be tied by what adds up their gradients: they are
    only named where their gradients were not added up.

    Args:
        untied: What the runs tie, or copy.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test.
    """
    runs = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
    found = [
        SplitTie(
            copy=copy,
            lies_apart=False,
            step=_step_of_parts(copy, verdicts, runs[copy.side], _other(runs, copy)),
        )
        for copy in untied.separate
    ]
    for copy in untied.copies_apart:
        step = _step_of_parts(copy, verdicts, runs[copy.side], _other(runs, copy))
        if step is not None:
            found.append(SplitTie(copy=copy, lies_apart=True, step=step))
    return tuple(found)


def _other(runs: dict[Side, TraceSource], copy: Copy) -> TraceSource:
    return next(run for side, run in runs.items() if side is not copy.side)


def _step_of_parts(
    copy: Copy,
    verdicts: Sequence[TensorVerdict],
    run: TraceSource,
    other: TraceSource,
) -> int | None:
    """The first step in which a gradient of either fails, if both make up the other's.

    Args:
        copy: The copy, of ``run``.
        verdicts: On all tensors.
        run: Has both.
        other: Has one.
    """
    names = (copy.name, copy.original)
    failed = [
        verdict.id.step
        for verdict in verdicts
        if verdict.id.kind is Kind.MAIN_GRAD
        and verdict.status is Status.FAILED
        and (verdict.id.module, verdict.id.slot) in names
    ]
    if not failed:
        return None
    step = min(failed)
    total = values_of(_gradient(copy.original, step), other)
    parts = [values_of(_gradient(name, step), run) for name in names]
    if total is None or any(part is None for part in parts):
        return None
    if any(part.shape != total.shape for part in parts if part is not None):
        return None
    sums = sum(part for part in parts if part is not None)
    rest = float(np.linalg.norm(sums - total))
    for part in parts:
        difference = 0.0 if part is None else float(np.linalg.norm(part - total))
        if rest > (1 - _LEAST_EXPLAINED) * difference:
            return None
    return step


def _gradient(name: Name, step: int) -> TensorId:
    module, slot = name
    return TensorId(step=step, module=module, kind=Kind.MAIN_GRAD, slot=slot)
