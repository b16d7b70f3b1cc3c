"""Samples that a run has in other steps than the other run has them."""

from collections.abc import Collection, Mapping, Sequence

from ttrace.compare.extents import ranges
from ttrace.compare.model_inputs import StepInputs
from ttrace.compare.samples import Place

Steps = Mapping[int, StepInputs]
"""The inputs of a run, by step."""


def in_other_steps(
    step: int,
    dims: Mapping[str, int],
    missing: Sequence[bytes],
    extra: Sequence[bytes],
    *,
    reference: Steps,
    candidate: Steps,
) -> str:
    """Says that the runs were given the same samples, and cut them into other steps.

    Args:
        step: In which they were not.
        dims: The dim that counts samples, of the inputs that have one.
        missing: What those samples of the reference hold that the candidate lacks.
        extra: Likewise of the candidate.
        reference: All steps of the reference.
        candidate: All steps of the candidate.

    Returns:
        With what to look at; empty where some samples are in no step of the other run.
    """
    later = _steps_with(missing, step, dims, candidate, reference)
    earlier = _steps_with(extra, step, dims, reference, candidate)
    if later is None or earlier is None:
        return ""
    parts = []
    if later:
        parts.append(f"the candidate has the missing ones in step {ranges(later)}")
    if earlier:
        parts.append(f"the reference has the others in step {ranges(earlier)}")
    runs = "candidate" if len(candidate) > len(reference) else "reference"
    if len(candidate) == len(reference):
        look = (
            "the runs give the same samples in other steps: look at where each "
            "calls trace.step(), and at how many micro-batches it accumulates"
        )
    else:
        look = (
            f"the {runs} makes more steps of fewer samples: look at where trace.step() "
            "is called in either run (once behind every optimizer.step()), and at how "
            "many micro-batches each accumulates before it"
        )
    return f": {' and '.join(parts)}; {look}"


def _steps_with(
    wanted: Sequence[bytes],
    step: int,
    dims: Mapping[str, int],
    run: Steps,
    other_run: Steps,
) -> Collection[int] | None:
    """Steps of a run that hold rows; None where a row is in none of them."""
    left = set(wanted)
    found = []
    for other, inputs in run.items():
        if not left:
            break
        if other == step:
            continue
        held = set(_rows(inputs, dims, other_run[step]).values()) & left
        if held:
            found.append(other)
            left -= held
    return None if left else found


def _rows(
    inputs: StepInputs, dims: Mapping[str, int], other: StepInputs
) -> dict[Place, bytes]:
    if not inputs.inputs or not inputs.is_whole():
        return {}
    slots = [*inputs.inputs.values()]
    if not all(slot in of_one for of_one in slots for slot in dims):
        return {}
    dtypes = {slot: inputs.dtypes(slot) | other.dtypes(slot) for slot in dims}
    return inputs.rows(dims, dtypes)
