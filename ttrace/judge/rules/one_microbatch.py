"""Accumulated gradients of which one micro-batch alone is left."""

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.reading.failures import examined_text


def one_microbatch(findings: Findings) -> Diagnosis | None:
    """Says whose gradients those of a step are, where that was checked.

    Not of a run that clips in the midst of a step: its main_grad is from before.
    """
    found, clips = (
        findings.evidence.runs.one_microbatch,
        findings.evidence.optimizer.early_clipping,
    )
    if found is None or (clips is not None and clips.side is Side.CANDIDATE):
        return None
    verdicts = [v for v in findings.failed if v.id in set(found.ids)]
    are = "are" if len(verdicts) > 1 else "is"
    numbers = ", ".join(map(str, found.microbatches))
    which = f"{'the last, ' if found.is_last else ''}number {numbers}"
    what = f"one of its {found.num_microbatches} micro-batches adds ({which})"
    evidence: dict[str, str | float] = {
        "step": found.step,
        "microbatch": found.microbatches[0],
        "num_microbatches": found.num_microbatches,
    }
    if len(found.microbatches) > 1:
        what = (
            f"{'the last' if found.is_last else 'one'} micro-batch of each rank adds "
            f"(numbers {numbers} of {found.num_microbatches})"
        )
        evidence["microbatches"] = numbers
    remedy = findings.words(
        "look for zero_grad() between the micro-batches, or a backward under no_sync() "
        "that is not reduced",
        "look at the sum that the loop carries: the gradients of each micro-batch are "
        "to be added to it",
    )
    examined = examined_text(findings.verdicts, lambda id_: id_.kind is Kind.MAIN_GRAD)
    return Diagnosis(
        code="one_microbatch",
        sentence=f"{tensors(len(verdicts))} (main_grad){examined} of step "
        f"{found.step} {are} what {what}, and not the sum or mean of all: {remedy}",
        evidence=evidence,
        tensor_ids=ids_of(verdicts),
    )
