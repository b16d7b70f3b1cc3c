"""Parameters that optimizers of both runs leave alike, and that end a step apart."""

from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.reading.writers import writers
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_NAMED = 2


def written_parameters(findings: Findings) -> Diagnosis | None:
    """Says in which run a script writes to parameters after the optimizer's step.

    Of the first step in which that makes them differ. What an optimizer holds must have
    passed as it left it; of other parameters nothing but this was recorded.
    """
    by_id = {verdict.id: verdict for verdict in findings.verdicts}
    apart = [
        verdict
        for verdict in findings.failed
        if verdict.id.kind is Kind.WRITTEN_PARAM
        and verdict.result is not None
        and _was_right(verdict.id, by_id)
    ]
    first = findings.evidence.place.first
    if not apart or first is None:
        return None
    step = min(verdict.id.step for verdict in apart)
    begun = parse_tensor_id(first.id)
    if begun.step <= step and begun.kind is not Kind.WRITTEN_PARAM:
        return None  # something was wrong before the step ended
    apart = [verdict for verdict in apart if verdict.id.step == step]
    found = {writers(verdict) for verdict in apart}
    if len(found) > 1:  # what is said is said of all of them
        first = writers(apart[0])
        apart = [verdict for verdict in apart if writers(verdict) == first]
    (of_first,) = {writers(verdict) for verdict in apart}
    is_held = all(replace(v.id, kind=Kind.UPDATED_PARAM) in by_id for v in apart)
    names = _names(apart)
    it = "it" if len(apart) == 1 else "them"
    when = (
        f"after the optimizer's step {step}"
        if is_held
        else f"in step {step}, beside its optimizer"
    )
    if len(of_first) == 1:
        (side,) = of_first
        other = next(each for each in Side if each is not side)
        what = (
            f"the {side} writes to {names} {when}, and the {other} does not: at the "
            f"end of the step the runs differ in {it}"
        )
    else:
        what = f"both runs write to {names} {when}, and what they write differs"
    agrees = "; what the optimizers left agrees" if is_held else ""
    return Diagnosis(
        code="written_parameters",
        sentence=f"{what}{agrees}. Compare what the scripts do to parameters between "
        "optimizer.step() and trace.step(), such as clamping, normalising or averaging "
        "them",
        evidence={"num_tensors": len(apart), "step": step},
        tensor_ids=ids_of(apart),
    )


def _was_right(written: TensorId, by_id: dict[TensorId, TensorVerdict]) -> bool:
    updated = by_id.get(replace(written, kind=Kind.UPDATED_PARAM))
    return updated is None or updated.status is Status.PASSED


def _names(verdicts: list[TensorVerdict]) -> str:
    named = [f"{v.id.module}.{v.id.slot}" for v in verdicts[:_MOST_NAMED]]
    more = len(verdicts) - len(named)
    if not more:
        return " and ".join(named)
    return f"{', '.join(named)} and {more} more parameter{'s' * (more > 1)}"
