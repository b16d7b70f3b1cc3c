"""Copies of parameters that other ranks update, where a module computes wrongly."""

from collections.abc import Collection

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_RANKS = 4
"""Ranks that are named."""


def unseen_copies(findings: Findings) -> Diagnosis | None:
    """Says that ranks compute the first divergence with parameters that nobody saw.

    As where each rank steps a part of the parameters, and hands it to the others: what
    the updating rank has agrees, and is all that was recorded.
    """
    if not findings.failed:
        return None
    output = findings.failed[0]
    id_, ranks = output.id, output.candidate_ranks
    if id_.kind is not Kind.OUTPUT or not id_.step:
        return None
    unseen = [
        verdict
        for verdict in findings.verdicts
        if verdict.id.kind is Kind.UPDATED_PARAM
        and verdict.id.module == id_.module
        and verdict.id.step == id_.step - 1
        and verdict.status is Status.PASSED
        and ranks - verdict.candidate_ranks
    ]
    if not unseen or not _are_everywhere(unseen, findings):
        return None
    seen = unseen[0].candidate_ranks
    others = ranks - seen
    return Diagnosis(
        code="unseen_copies",
        sentence=f"output {id_.slot} of {id_.module} is wrong in step {id_.step}, and "
        f"the update of its {unseen[0].id.slot} in step {id_.step - 1}, which agrees, "
        f"was recorded on {_ranks(seen)} alone: {_ranks(others)} "
        f"compute{'s' * (len(others) == 1)} with a copy that was not compared. Look at "
        "what hands parameters from rank to rank after the optimizer steps, such as a "
        "broadcast from the rank that updates them",
        evidence={"step": id_.step, "num_ranks": len(others)},
        tensor_ids=ids_of([output, *unseen]),
    )


def _are_everywhere(unseen: list[TensorVerdict], findings: Findings) -> bool:
    """Whether the ranks have the parameters, as they start from them."""
    first = unseen[0].id
    held = [
        verdict.candidate_ranks
        for verdict in findings.verdicts
        if verdict.id.kind is Kind.PARAM
        and (verdict.id.module, verdict.id.slot) == (first.module, first.slot)
    ]
    return any(ranks - unseen[0].candidate_ranks for ranks in held)


def _ranks(ranks: Collection[int]) -> str:
    named = ", ".join(map(str, sorted(ranks)[:_MOST_RANKS]))
    more = ", ..." if len(ranks) > _MOST_RANKS else ""
    return f"rank{'s' * (len(ranks) > 1)} {named}{more}"
