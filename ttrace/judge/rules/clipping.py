"""Gradients that only one run clips, or that are clipped otherwise."""

from collections.abc import Iterable, Mapping

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.optimizers.clip_factors import (
    ClipFactor,
    clip_factors,
    common_factor,
    limits_norm_of,
)
from ttrace.judge.rules.scaled_clipping import scaled_clipping
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_STEP = (Kind.MAIN_GRAD, Kind.CLIPPED_GRAD)
_MOST_NAMED = 3
"""Gradients that are named."""

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
            return _different(step, failed, of_step) if agree else None
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


def _different(
    step: int, failed: list[TensorVerdict], of_step: Mapping[Kind, list[TensorVerdict]]
) -> Diagnosis:
    before = {verdict.id: verdict for verdict in of_step[Kind.MAIN_GRAD]}
    agree = [v for v in before.values() if v.status is Status.PASSED]
    known = clip_factors(of_step[Kind.CLIPPED_GRAD], before)
    are = "are" if len(failed) > 1 else "is"
    return Diagnosis(
        code="clipping",
        sentence=f"the gradients of step {step} agree before they are clipped "
        f"({len(agree)} compared), and {tensors(len(failed))} {are} different after "
        f"it: {_how(failed, known)}",
        evidence={"step": step, "num_tensors": len(failed)},
        tensor_ids=ids_of(failed),
    )


def _how(failed: list[TensorVerdict], known: list[ClipFactor]) -> str:
    """What either run does to which of the gradients, as far as it is known."""
    wrong = [each for each in known if each.verdict.status is Status.FAILED]
    if len(wrong) < len(failed) or not all(each.is_multiple for each in wrong):
        return (
            "the limit is another one, or what it limits, as the norm of all "
            "gradients, of a group of them or of each, or each value"
        )
    left = [each for each in wrong if each.is_unclipped]
    more = [each for each in wrong if each.is_unclipped_in_reference]
    rest = [each for each in wrong if each not in left and each not in more]
    said = []
    if left:
        said.append(
            f"the candidate leaves {_names(left)} as {_it(left)} before, which the "
            f"reference clips"
        )
    if more:
        said.append(
            f"the candidate clips {_names(more)}, which the reference leaves as "
            f"{_it(more)} before"
        )
    if rest:
        others = "the others " if said else ""
        said.append(others + _of_factors(rest, known, alone=not said))
    else:
        said[-1] += ": look at which parameters the clip is given, and at its limit"
    return "; ".join(said)


def _of_factors(rest: list[ClipFactor], known: list[ClipFactor], *, alone: bool) -> str:
    """How the limit or the norm differs by which both runs clip."""
    theirs = common_factor(each.reference for each in known)
    ours = common_factor(each.candidate for each in rest)
    must = "which must be that of all gradients, on all ranks"
    if theirs is not None and ours is not None and not alone:
        by = f"it multiplies by {ours:.4g}, and the reference all by {theirs:.4g}"
        if limits_norm_of(rest, known, (ours, theirs)):
            return (
                f"{by}, which is one limit, and it clips by the norm of these alone: "
                "give the clip all parameters, as the reference does"
            )
        return f"{by}: the limit is another one, or the norm is, {must}"
    if theirs is not None and alone:
        return f"the limit is another one, or the norm is, {must}"
    ratio = common_factor(each.candidate / each.reference for each in rest)
    are = "they are " if alone else "are "
    if ratio is not None:
        return (
            f"{are}{ratio:.4g} times the reference's, and the reference does not clip "
            f"all by one factor: look for a limit that is {ratio:.4g} times that of "
            "the reference"
        )
    apart = (
        "the reference does not clip all by one factor: a limit is another one, or "
        "which gradients are clipped together is"
    )
    return apart if alone else f"are multiplied by other factors, and {apart}"


def _names(factors: list[ClipFactor]) -> str:
    ids = [each.verdict.id for each in factors]
    named = [f"{id_.module}.{id_.slot}" for id_ in ids[:_MOST_NAMED]]
    more = len(ids) - len(named)
    if more:
        return f"{', '.join(named)} and {more} more"
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def _it(factors: list[ClipFactor]) -> str:
    return "they were" if len(factors) > 1 else "it was"
