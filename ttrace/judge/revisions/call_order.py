"""Modules whose nth call is not given what it is given in the reference."""

from collections.abc import Sequence

from ttrace.compare.align import Alignment, Match
from ttrace.compare.calls.call_counts import Place, num_calls, place_of
from ttrace.compare.execute import TensorResult
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass
from ttrace.ir.trace import TraceInfo
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.tensors import judge
from ttrace.judge.verdicts.verdict import Status


def calls_in_doubt(
    alignment: Alignment,
    results: Sequence[TensorResult],
    tolerances: ToleranceTable,
    reference: TraceInfo,
    candidate: TraceInfo,
) -> tuple[Place, ...]:
    """The places with several calls, of which an input fails, call by call.

    Reads no array.

    Args:
        alignment: All tensors of both traces.
        results: One per match of the alignment.
        tolerances: What rounding explains.
        reference: The trusted run.
        candidate: The run under test.
    """
    unequal = [
        result
        for result in results
        if result.plan.id.kind is Kind.INPUT
        and result.plan.id.pass_ is Pass.FORWARD
        and result.plan.id.module != ROOT_MODULE
        and (result.stats.num_unequal or result.plan.shapes_differ)
    ]
    if not unequal:
        return ()
    numbers = num_calls(reference)
    unequal = [r for r in unequal if numbers.get(place_of(r.plan.id), 0) > 1]
    if not unequal:
        return ()
    # Tolerances depend on where a tensor comes in the run: all are judged.
    ids = {result.plan.id for result in unequal}
    verdicts = judge(alignment, results, tolerances, reference, candidate)
    failed = {v.id for v in verdicts if v.status is Status.FAILED} & ids
    return tuple(
        dict.fromkeys(
            place_of(entry.id)
            for entry in alignment.entries
            if isinstance(entry, Match) and entry.id in failed
        )
    )
