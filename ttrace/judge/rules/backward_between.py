"""A backward that is wrong between two modules whose forward agrees."""

from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId, parse_tensor_id
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.runs.rank_names import ranks_text
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


def backward_between(findings: Findings) -> Diagnosis | None:
    """Says so where the last gradient that agrees is that of what follows next.

    The output whose gradient is the first divergence agrees, and so does the next thing
    that a module is given behind it, with its gradient.
    """
    first = findings.evidence.place.first
    if first is None or first.kind != Kind.GRAD_OUTPUT:
        return None
    id_ = parse_tensor_id(first.id)
    by_id = {verdict.id: verdict for verdict in findings.verdicts}
    output = by_id.get(replace(id_, kind=Kind.OUTPUT))
    if not failed_by_values(by_id.get(id_)) or not _agrees(output):
        return None
    behind = None
    is_behind = False
    for verdict in findings.verdicts:
        other = verdict.id
        if verdict is output:
            is_behind = True
        elif (
            is_behind
            and other.kind is Kind.INPUT
            and other.pass_ is Pass.FORWARD
            and (other.step, other.microbatch) == (id_.step, id_.microbatch)
            and not _is_around(other.module, id_.module)
        ):
            behind = verdict
            break
    if behind is None or not _agrees(behind):
        return None
    gradient = by_id.get(replace(behind.id, kind=Kind.GRAD_INPUT))
    if gradient is None or not _agrees(gradient):
        return None
    ours = f"output {id_.slot} of {id_.module}"
    theirs = f"input {behind.id.slot} of {behind.id.module}"
    border = _border(output, behind)
    if border:
        look = (
            "how the gradient is sent and received between these stages: of which "
            "micro-batch and chunk the schedule sends it, and whether what one "
            "receives is what it hands to its backward"
        )
    else:
        look = findings.words(
            "an autograd.Function with a backward of its own, a hook or a detach()",
            "a custom_vjp or a stop_gradient",
        )
    loss = next((v for v in findings.failed if _is_loss_of(v, id_)), None)
    if loss is not None and not border:
        remedy = (
            f"The loss differs, too ({loss.id}): look first at a term of it that is "
            f"computed from that output beside the rest; else, between them, for {look}"
        )
    else:
        remedy = f"Look there for {look}"
    return Diagnosis(
        code="backward_between",
        sentence=f"the forward agrees at {ours} and at {theirs}, the next module, and "
        f"so does the gradient of the latter, while that of the former differs ({id_}):"
        f" it is the backward of what lies between them, or of another use of that "
        f"output. {border}{remedy}",
        evidence={"from": str(behind.id), "to": str(id_)},
        tensor_ids=(str(id_), str(gradient.id)),
    )


def _is_loss_of(verdict: TensorVerdict, gradient: TensorId) -> bool:
    """Whether it is a loss, recorded or returned by the model, that differs there."""
    id_, result = verdict.id, verdict.result
    is_returned = (
        id_.kind is Kind.OUTPUT
        and id_.module == ROOT_MODULE
        and result is not None
        and result.stats.count == 1
    )
    return (
        (id_.kind is Kind.LOSS or is_returned)
        and failed_by_values(verdict)
        and (id_.step, id_.microbatch) == (gradient.step, gradient.microbatch)
    )


def _border(output: TensorVerdict | None, behind: TensorVerdict) -> str:
    """That no rank of the candidate has both, in a sentence; empty where one does."""
    if output is None or output.result is None or behind.result is None:
        return ""
    ours, theirs = (
        {shard.rank for shard in verdict.result.plan.match.candidate.shards}
        for verdict in (output, behind)
        if verdict.result is not None
    )
    if not ours.isdisjoint(theirs):
        return ""
    return (
        f"In the candidate {output.id.module} lies on {ranks_text(ours)} and "
        f"{behind.id.module} on {ranks_text(theirs)}: they are of two stages of a "
        "pipeline. "
    )


def _agrees(verdict: TensorVerdict | None) -> bool:
    return (
        verdict is not None
        and verdict.status is Status.PASSED
        and not verdict.noise_dominated
    )


def _is_around(module: str, inner: str) -> bool:
    return module in (ROOT_MODULE, inner) or inner.startswith(f"{module}.")
