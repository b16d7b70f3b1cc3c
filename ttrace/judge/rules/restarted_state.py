"""An optimizer whose state is made anew between two steps."""

from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.optimizers.restarted_state import is_moment
from ttrace.judge.reading.failures import examined_text

_REMEDIES = {
    "jax": "carry what the update returns from step to step, and call init once, "
    "before the loop",
    "torch": "make the optimizer once, before the loop, and look for what clears its "
    "state, or loads it",
}


def restarted_state(findings: Findings) -> Diagnosis | None:
    """Says that moments hold nothing of the step before, where that was checked."""
    restart = findings.evidence.optimizer.restart
    if restart is None:
        return None
    verdicts = [v for v in findings.failed if v.id in set(restart.ids)]
    names = sorted({(id_.slot or "").rpartition(".")[2] for id_ in restart.ids})
    are = "are" if len(verdicts) > 1 else "is"
    counted = ""
    examined = examined_text(findings.verdicts, is_moment)
    if restart.counts is not None:
        theirs, ours = restart.counts
        counted = f"; it counts {ours:g} step, and {theirs:g} in the reference"
    framework = findings.candidate.ranks[0].framework
    remedy = _REMEDIES.get(framework, _REMEDIES["torch"])
    return Diagnosis(
        code="restarted_state",
        sentence=f"the optimizer's state starts anew in step {restart.step}: "
        f"{tensors(len(verdicts))} ({', '.join(names)}){examined} {are} "
        "what a first step makes of the gradient, which agrees; of the state before, "
        f"of which the reference keeps a part, nothing is left{counted}: {remedy}",
        evidence={"step": restart.step, "num_tensors": len(verdicts)},
        tensor_ids=ids_of(verdicts),
    )
