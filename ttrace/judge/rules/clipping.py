"""Gradients that only one run clips, or that are clipped otherwise."""

from collections.abc import Iterable, Mapping

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.rules.scaled_clipping import scaled_clipping
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_STEP = (Kind.MAIN_GRAD, Kind.CLIPPED_GRAD)
_BEFORE = frozenset({Status.PASSED, Status.SKIPPED})


def clipping(findings: Findings) -> Diagnosis | None:
    """Blames the clipping of the first step whose gradients agree before it.

    It does if nothing clipped was seen in one of the runs, or if all gradients that
    were compared agree and not all of the clipped ones do.
    """
    if scaled_clipping(findings) is not None:  # which knows more
        return None
    for step, of_step in sorted(_steps(findings.verdicts).items()):
        before, after = (of_step[kind] for kind in _OF_STEP)
        if not after or any(verdict.status not in _BEFORE for verdict in before):
            return None
        if all(verdict.status is Status.UNMATCHED for verdict in after):
            return _one_sided(step, after, findings)
        agree = [verdict for verdict in before if verdict.status is Status.PASSED]
        failed = [verdict for verdict in after if verdict.status is Status.FAILED]
        if failed:
            return _different(step, failed, len(agree)) if agree else None
    return None


def _steps(
    verdicts: Iterable[TensorVerdict],
) -> Mapping[int, Mapping[Kind, list[TensorVerdict]]]:
    steps: dict[int, dict[Kind, list[TensorVerdict]]] = {}
    for verdict in verdicts:
        if verdict.id.kind in _OF_STEP:
            of_step = steps.setdefault(verdict.id.step, {kind: [] for kind in _OF_STEP})
            of_step[verdict.id.kind].append(verdict)
    return steps


def _one_sided(
    step: int, after: list[TensorVerdict], findings: Findings
) -> Diagnosis | None:
    sides = {verdict.present for verdict in after}
    if len(sides) != 1 or None in sides:
        return None
    side = after[0].present
    other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
    return Diagnosis(
        code="clipping",
        sentence=f"step {step} of the {side} clips its gradients, and no clipping was "
        f"seen in that step of the {other}, whose gradients agree before it. Clip in "
        "both runs, "
        + findings.words(
            "between the last backward and optimizer.step()", "before the optimizer"
        ),
        evidence={"step": step, "clips": str(side)},
        tensor_ids=ids_of(after),
    )


def _different(step: int, failed: list[TensorVerdict], num_agree: int) -> Diagnosis:
    are = "are" if len(failed) > 1 else "is"
    return Diagnosis(
        code="clipping",
        sentence=f"the gradients of step {step} agree before they are clipped "
        f"({num_agree} compared), and {tensors(len(failed))} {are} different after it: "
        "the limit is another one, or the norm is, which must be that of all "
        "gradients, on all ranks",
        evidence={"step": step, "num_tensors": len(failed)},
        tensor_ids=ids_of(failed),
    )
