"""A first divergence that lies in some rows of an embedding."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.places.embedding_rows import EmbeddingRows
from ttrace.judge.rules.rank_factors import rank_factors
from ttrace.judge.rules.replicas_differ import replicas_differ

_MAX_NAMED = 8


def embedding_rows(findings: Findings) -> Diagnosis | None:
    """Names the rows: which token ids, as a rule, are wrong wherever they occur."""
    found = findings.evidence.place.rows
    if found is None or _is_unreduced(findings, str(found.id)):
        return None
    if rank_factors(findings) is not None:
        return None  # they are rows of a rank, all of whose gradients are off
    named = ", ".join(map(str, found.rows[:_MAX_NAMED]))
    more = len(found.rows) - _MAX_NAMED
    rows = named + (f" and {more} more" if more > 0 else "")
    ends = f" ({'; '.join(found.ends[:_MAX_NAMED])})" if found.ends else ""
    if found.id.kind is Kind.OUTPUT:
        place = f"wrong where its input (the token id) is {rows}{ends}"
        others = f"agrees at all {found.num_right} other ids that occur"
    else:
        place = f"wrong in the rows of the ids {rows}{ends}"
        others = f"agrees in all {found.num_right} other rows that are not zero"
    return Diagnosis(
        code="embedding_rows",
        sentence=f"{found.id} is {place}, and {others}: {_advice(found)}",
        evidence={"rows": rows, "num_right": found.num_right},
        tensor_ids=(str(found.id),),
    )


def _advice(found: EmbeddingRows) -> str:
    """Where to look; at the backward, if the rows were found in the forward."""
    module = found.id.module
    if found.repeated:
        return (
            "they are all the ids that occur more than once in what a rank is given at "
            f"a time. Look at how the backward of {module} adds up the gradients of "
            "several uses of a row, as where one overwrites another or all are averaged"
        )
    if found.forward_agrees:
        return (
            f"the output of {module} agrees, so look at how its backward finds these "
            "rows, such as the range of ids that a rank takes for its own there, and "
            "at what else adds to their gradients"
        )
    return (
        f"look at how {module} finds these rows, such as the range of ids that a rank "
        "takes for its own"
    )


def _is_unreduced(findings: Findings, first: str) -> bool:
    """Whether replicas of it differ: ranks have their own rows, and lack the others."""
    differing = replicas_differ(findings)
    return differing is not None and first in differing.tensor_ids
