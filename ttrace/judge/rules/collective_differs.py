"""The first collective that differs between two runs of one layout."""

from collections.abc import Iterable

from ttrace.compare.collectives.collective_calls import ranks_text
from ttrace.ir.collective import CollectivePart, Role
from ttrace.ir.kinds import Kind
from ttrace.ir.trace import TensorRecord
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


def collective_differs(findings: Findings) -> Diagnosis | None:
    """Says which one it is, with its line, and whether its operands differ already.

    One that runs over other ranks, or reduces otherwise, comes before: its operands
    may agree, and its result cannot.
    """
    found = [
        (verdict, theirs, ours)
        for verdict in findings.verdicts
        if verdict.id.kind is Kind.COLLECTIVE and verdict.result is not None
        if (theirs := _part(verdict.result.plan.match.reference)) is not None
        and (ours := _part(verdict.result.plan.match.candidate)) is not None
    ]
    pairs = sorted(found, key=lambda pair: _time(pair[0]))
    for verdict, theirs, ours in pairs:
        if _asked(theirs) != _asked(ours):
            return _asks_otherwise(verdict, theirs, ours, findings)
    failed = [pair for pair in pairs if pair[0].status is Status.FAILED]
    if not failed:
        return None
    verdict, _, part = failed[0]
    operands = [
        other
        for other, _, its in pairs
        if its.role is Role.OPERAND
        and (its.group_name, its.group, its.number)
        == (part.group_name, part.group, part.number)
    ]
    over = ranks_text(part.group, findings.candidate)
    what = "its operands agree on all ranks, and its result does not: look at the " + (
        "call itself, and at what writes to its tensors before wait()"
    )
    if part.role is Role.OPERAND:
        what = (
            f"its operand on rank {verdict.result.plan.match.candidate.shards[0].rank}"
            " differs already: what made it, before that line, is wrong"
            if verdict.result is not None
            else ""
        )
    elif not operands or _any_failed(operands):
        return None
    return Diagnosis(
        code="collective_differs",
        sentence=f"the first collective that differs is {part.place} in "
        f"{verdict.id.module}, over {over} ({verdict.id}): {what}",
        evidence={"num_tensors": len(failed)},
        tensor_ids=ids_of([pair[0] for pair in failed]),
    )


def _asks_otherwise(
    verdict: TensorVerdict,
    theirs: CollectivePart,
    ours: CollectivePart,
    findings: Findings,
) -> Diagnosis:
    over = [_text(part, findings) for part in (ours, theirs)]
    return Diagnosis(
        code="collective_differs",
        sentence=f"{ours.place} in {verdict.id.module} runs {over[0]}, and in the "
        f"reference, at {theirs.source or theirs.library}, {over[1]}: give it the "
        "group, the operation and the root that the reference gives it",
        evidence={
            "candidate": over[0],
            "reference": over[1],
        },
        tensor_ids=(str(verdict.id),),
    )


def _text(part: CollectivePart, findings: Findings) -> str:
    """``sum over dp [0, 2]``; both runs have the same meshes."""
    what = f"{part.reduction} over" if part.reduction else "over"
    root = "" if part.root is None else f" with root {part.root}"
    return f"{what} {ranks_text(part.group, findings.candidate)}{root}"


def _time(verdict: TensorVerdict) -> tuple[int, int, int]:
    """About when it was recorded: each rank counts its own tensors."""
    assert verdict.result is not None
    shard = verdict.result.plan.match.candidate.shards[0]
    return verdict.id.step, shard.sequence, shard.rank


def _asked(part: CollectivePart) -> tuple:
    return part.name, part.group, part.reduction, part.root


def _part(record: TensorRecord) -> CollectivePart | None:
    return record.shards[0].collective


def _any_failed(verdicts: Iterable[TensorVerdict]) -> bool:
    return any(verdict.status is Status.FAILED for verdict in verdicts)
