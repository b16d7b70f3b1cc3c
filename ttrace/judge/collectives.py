"""Collectives that gave something wrong, were mixed up, repeated or left out."""

from collections.abc import Sequence

from ttrace.compare.collectives.collective_calls import (
    CollectiveCall,
    RankShare,
    ranks_text,
)
from ttrace.compare.collectives.collective_results import (
    CollectiveCheck,
    wrong_collectives,
)
from ttrace.compare.collectives.repeated_reductions import (
    RepeatedReduction,
    repeated_reductions,
)
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.collectives_missing import (
    find_missing_collective,
    missing_collective,
)
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis
from ttrace.judge.runs.collective_order import OrderFault, find_order_faults
from ttrace.judge.verdicts.replicas import ReplicaCheck

_VERBS = {
    "sum": "the sum",
    "avg": "the average",
    "product": "the product",
    "min": "the minimum",
    "max": "the maximum",
}


def collective_faults(
    trace: TraceSource, checks: Sequence[ReplicaCheck] = ()
) -> tuple[Diagnosis, ...]:
    """What is wrong with the collectives of a run; empty where nothing is.

    Results are not judged where ranks run other collectives than their group.

    Args:
        trace: The run.
        checks: On all its tensors that have replicas, in order of capture.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    misordered = find_order_faults(trace.info)
    if misordered:
        return (misordered_collectives(misordered, trace.info),)
    found = []
    if wrong := wrong_collectives(trace):
        found.append(wrong_results(wrong, trace.info))
    if repeated := repeated_reductions(trace):
        found.append(repeated_collectives(repeated, trace.info))
    differing = next((check for check in checks if check.differing), None)
    if differing is not None:
        missing = find_missing_collective(
            differing.record, differing.differing, trace.info
        )
        if missing is not None:
            found.append(missing_collective(missing, trace.info))
    return tuple(found)


def wrong_results(found: Sequence[CollectiveCheck], info: TraceInfo) -> Diagnosis:
    """Results that are not made of the recorded operands as the collective says.

    Args:
        found: Collectives that have some; at least one.
        info: Their run.
    """
    first = found[0]
    wrong = first.wrong[0]
    part = first.call.part
    share = first.call.shares[wrong.record.rank]
    what = f"{_VERBS.get(part.reduction, 'what')} of"
    if not part.reduction:
        what = "made of"
    elif part.reduction not in _VERBS:
        what = f"the {part.reduction} of"
    cause = (
        f"{wrong.num_wrong} of {wrong.count} elements differ by up to "
        f"{wrong.error:.3g}, of which rounding explains {wrong.allowed:.3g}: look for "
        "a tensor that is written to between the call and its wait(), or for ranks "
        "whose collectives are mixed up"
    )
    if wrong.is_own_operand:
        cause = (
            "it is the rank's own operand, to the bit: the tensor was read or copied "
            "before the reduction had ended, or something wrote it back"
        )
    more = _more(len(found) - 1, "more collective", "gave wrong results")
    return Diagnosis(
        code="collective_result",
        sentence=f"what {share.part.place} gave rank {wrong.record.rank} "
        f"({wrong.record.id}) is not {what} its recorded operands over "
        f"{ranks_text(part.group, info)}: {cause}{more}",
        evidence={
            "num_collectives": len(found),
            "num_wrong": wrong.num_wrong,
            "error": wrong.error,
            "allowed": wrong.allowed,
        },
        tensor_ids=tuple(str(one.record.id) for check in found for one in check.wrong)[
            :MAX_IDS
        ],
    )


def repeated_collectives(
    found: Sequence[RepeatedReduction], info: TraceInfo
) -> Diagnosis:
    """Sums of what had been reduced over the same ranks before.

    Args:
        found: In order; at least one.
        info: Their run.
    """
    one = found[0]
    again, first = one.again.share, one.first.share
    record = again.operands[one.position]
    count = len(one.again.group.ranks)
    where = (
        ""
        if first.first.id.module == record.id.module
        else (f" in {first.first.id.module}")
    )
    more = _more(len(found) - 1, "more sum", "of what was reduced before")
    return Diagnosis(
        code="collective_repeated",
        sentence=f"{again.part.place} in {record.id.module} sums over "
        f"{ranks_text(again.part.group, info)} what {first.part.place}{where} had "
        f"made the same on all of them ({record.id}): that is {count} times as much, "
        f"unless something divides it: drop one of the two{more}",
        evidence={"num_collectives": len(found), "factor": count},
        tensor_ids=tuple(
            str(each.again.share.operands[each.position].id) for each in found
        )[:MAX_IDS],
    )


def misordered_collectives(faults: Sequence[OrderFault], info: TraceInfo) -> Diagnosis:
    """Groups whose ranks do not run the same collectives in the same order.

    Args:
        faults: Where they part; at least one.
        info: Their run.
    """
    first = faults[0]
    call = first.call
    share = call.shares[first.rank]
    other = "runs none" if first.is_missing else f"runs {_asked(call, first.other)}"
    more = _more(len(faults) - 1, "more group", "of which the same holds")
    return Diagnosis(
        code="collective_order",
        sentence=f"the ranks of {ranks_text(call.group.ranks, info)} do not run the "
        f"same collectives in the same order: as number {call.number + 1} of the group "
        f"since tracing began, rank {first.rank} runs {_text(share)} and rank "
        f"{first.other} {other}: look for a collective in a branch that not all ranks "
        f"take, or in a loop over what is ordered otherwise on another rank{more}",
        evidence={"num_groups": len(faults), "number": call.number},
        tensor_ids=(str(share.first.id),),
    )


def _asked(call: CollectiveCall, rank: int) -> str:
    return _text(call.shares[rank])


def _text(share: RankShare) -> str:
    """``all_reduce at train.py:88 (sum of float32 [8, 16])``."""
    part, shard = share.part, share.first
    what = f"{part.reduction} of " if part.reduction else ""
    root = "" if part.root is None else f", root {part.root}"
    shape = list(shard.layout.local_shape)
    return f"{part.place} ({what}{shard.dtype} {shape}{root})"


def _more(number: int, what: str, rest: str) -> str:
    plural = "" if number == 1 else "s"
    return f"; {number} {what}{plural} {rest}" if number else ""
