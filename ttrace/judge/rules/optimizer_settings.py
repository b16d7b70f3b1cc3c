"""Updates that are wrong behind gradients that agree, and settings that differ."""

from collections.abc import Mapping
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, kinds_of, tensors
from ttrace.judge.rules.adam_settings import named_by_adam
from ttrace.judge.rules.update_hyperparameters import named_by_decay
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict


def optimizer_settings(findings: Findings) -> Diagnosis | None:
    """Names the settings that differ, where no other rule has shown what they do."""
    told = {*named_by_adam(findings), *named_by_decay(findings)}
    differences = [d for d in findings.evidence.optimizer.settings if d not in told]
    if findings.evidence.optimizer.state_decays:
        differences = [d for d in differences if d.name != "decoupled_weight_decay"]
    wrong = wrong_behind_gradients(
        findings, of_replicas=any(difference.ranks for difference in differences)
    )
    if not differences or not wrong:
        return None
    verb = "differs" if len(wrong) == 1 else "differ"
    return Diagnosis(
        code="optimizer_settings",
        sentence=f"{tensors(len(wrong))} ({kinds_of(wrong)}) {verb} while what the "
        "optimizer was given agrees, and it is set otherwise: "
        + "; ".join(difference.sentence for difference in differences),
        evidence={
            f"{difference.label} of the {side}": getattr(difference, side)
            for difference in differences
            for side in ("reference", "candidate")
        },
        tensor_ids=ids_of(wrong),
    )


def wrong_behind_gradients(
    findings: Findings, *, of_replicas: bool = False
) -> list[TensorVerdict]:
    """What the optimizer made of gradients that agree, in the first step it is wrong.

    None where any gradient is wrong by then.

    Args:
        findings: All that is known.
        of_replicas: What is wrong on some ranks alone counts, too.
    """
    causes = {Cause.ERROR, Cause.REPLICAS} if of_replicas else {Cause.ERROR}
    made = [
        verdict
        for verdict in findings.failed
        if verdict.id.kind in (Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM)
        and verdict.cause in causes
    ]
    if not made:
        return []
    first = min(verdict.id.step for verdict in made)
    by_id = {verdict.id: verdict for verdict in findings.verdicts}
    return [
        verdict
        for verdict in made
        if verdict.id.step == first and _is_given_the_same(verdict, by_id)
    ]


def _is_given_the_same(
    verdict: TensorVerdict, by_id: Mapping[TensorId, TensorVerdict]
) -> bool:
    """Whether the gradient of its parameter agrees; not of a state of the whole."""
    slot = verdict.id.slot or ""
    if verdict.id.kind is Kind.OPTIMIZER_STATE:
        slot = slot.rpartition(".")[0]
    if not slot:
        return False
    for kind in (Kind.CLIPPED_GRAD, Kind.MAIN_GRAD):
        given = by_id.get(replace(verdict.id, kind=kind, slot=slot))
        # Where one run has none of the kind, what it clips shows before it clips.
        if given is not None and given.status is not Status.SKIPPED:
            return given.status is Status.PASSED
    return False
