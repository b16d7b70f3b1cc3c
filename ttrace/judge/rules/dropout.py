"""Dropout that differs: its rate, or the random numbers that it drops by."""

from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.places.dropout_masks import DropoutMasks
from ttrace.judge.places.dropped_share import DroppedShare
from ttrace.judge.verdicts.verdict import Status

_SAME_NUMBERS = (
    "seed both runs alike, and let them draw as often and in the same order before it, "
    "with micro-batches and ranks of the same size; or compare both with a rate of 0"
)


_OWN_NUMBERS = (
    "let random numbers depend on which samples a rank or device has, by its seed or "
    "key (jax.random.fold_in), so that they are those of the reference"
)


def dropout(findings: Findings) -> Diagnosis | None:
    """Speaks where the first failure is an output that dropout has a part in.

    Or an input, which something outside of any module has dropped of. Either its values
    show it, or a module that is or lies within its own states another rate in each run.
    """
    if not findings.failed:
        return None
    first = findings.failed[0]
    masks = findings.evidence.place.masks
    dropped = findings.evidence.place.dropped
    is_input = first.id.kind is Kind.INPUT and not first.setup
    if first.id.kind is not Kind.OUTPUT and not (is_input and (masks or dropped)):
        return None
    differences = [
        each
        for each in findings.evidence.runs.dropout
        if each.is_within(first.id.module)
    ]
    sentences = [each.sentence for each in differences]
    if masks is not None:
        sentences.append(_of_values(masks))
    elif dropped is not None:
        sentences.append(_of_sum(dropped))
    if not sentences and _inputs_agree(findings):
        sentences += _of_inside(findings)
    if not sentences:
        return None
    if differences:
        sentences.append(
            "give both runs the same rate and mode (train() or eval()) of dropout"
        )
    else:
        sentences.append(
            _OWN_NUMBERS
            if (masks is not None and masks.repeated > 1)
            or (dropped is not None and dropped.agreeing is not None)
            else _SAME_NUMBERS
        )
    return Diagnosis(
        code="dropout",
        sentence="; ".join(sentences),
        evidence={
            f"{each.label} of the {side}": getattr(each, side)
            for each in differences
            for side in ("reference", "candidate")
        }
        | _figures(masks)
        | ({} if masks or dropped is None else {"rate": dropped.rate}),
        tensor_ids=ids_of([first]),
    )


def _inputs_agree(findings: Findings) -> bool:
    """Whether all inputs of the module that fails first agree, and there is one."""
    first = findings.failed[0].id
    inputs = [
        verdict.status
        for verdict in findings.verdicts
        if replace(verdict.id, slot=first.slot) == replace(first, kind=Kind.INPUT)
    ]
    return Status.PASSED in inputs and Status.FAILED not in inputs


def _of_inside(findings: Findings) -> list[str]:
    rates = findings.evidence.place.rates_inside
    if not rates:
        return []
    module = findings.failed[0].id.module
    return [
        f"the inputs of {module} agree and its output does not, and it drops at random "
        f"in both runs ({', '.join(rates)}), for which other random numbers are enough"
    ]


def _figures(masks: DropoutMasks | None) -> dict[str, float]:
    if masks is None:
        return {}
    reference, candidate = masks.zeros
    return {
        "zeros_reference": reference,
        "zeros_candidate": candidate,
        "factor": masks.factor,
    }


def _of_sum(dropped: DroppedShare) -> str:
    """What the values of a sum show, of which one summand is dropped of."""
    alike = ""
    if dropped.agreeing is not None:
        alike = f". At {dropped.agreeing} both keep the same"
    return (
        f"{dropped.id.kind} {dropped.id.slot} of {dropped.id.module} differs at "
        f"{100 * dropped.share:.3g} % of its elements, by plus or minus "
        f"{dropped.scale:.4g} times output {dropped.of.slot} of {dropped.of.module}, "
        f"and by nothing else: as where dropout with a rate of {dropped.rate:.3g} "
        f"keeps other elements of it{alike}"
    )


def _of_values(masks: DropoutMasks) -> str:
    """What the values show, and what makes them so."""
    reference, candidate = (f"{100 * share:.3g} %" for share in masks.zeros)
    zeros = (
        f"{masks.id.kind} {masks.id.slot} of {masks.id.module} is zero at other "
        f"places: {reference} of it in the reference, {candidate} in the candidate"
    )
    if masks.has_same_factor and min(masks.zeros) > 0:
        at = f", at a rate of {masks.rate} in both" if masks.rate else ""
        if masks.repeated > 1:
            return (
                f"{zeros}, and the same elsewhere. The candidate drops at the same "
                f"places in all {masks.repeated} equal parts of dim 0, and the "
                "reference does not"
            )
        times = ""
        if masks.kept is not None and masks.kept[0] > 1:
            times = f" (the input times {masks.kept[0]:.4g})"
        return (
            f"{zeros}, and the same elsewhere{times}, as where dropout draws other "
            f"random numbers{at}"
        )
    if masks.kept is not None and min(masks.kept) > 0:
        rates = [f"{max(0.0, 1 - 1 / kept):.3g}" for kept in masks.kept]
        return (
            f"{zeros}, and elsewhere the input times {masks.kept[0]:.4g} and "
            f"{masks.kept[1]:.4g}, as dropout with a rate of {rates[0]} and {rates[1]} "
            "makes it"
        )
    return (
        f"{zeros}, and elsewhere {masks.factor:.4g} times the reference, as where the "
        "rates of dropout differ"
    )
