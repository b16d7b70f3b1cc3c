"""A step of which one run was given only the first micro-batches of the other."""

from ttrace.compare.extents import ran_together
from ttrace.compare.samples.batch_dims import possible_batch_dims
from ttrace.compare.samples.model_inputs import StepInputs, comparable
from ttrace.compare.samples.samples import StepSamples
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.side import Side


def fewer_samples(
    step: int, reference: StepInputs, candidate: StepInputs
) -> StepSamples | None:
    """Says so, where what the other run has more are other samples.

    Integers tell: a further call of the model may be given the same samples again, or
    numbers that a script has computed.

    Args:
        step: The step.
        reference: Its inputs; whole, and those of common micro-batches are the same in
            both runs.
        candidate: Likewise.
    """
    fewer, more = sorted((reference, candidate), key=lambda run: len(run.numbers))
    added = [number for number in more.numbers if number not in fewer.numbers]
    if not added or not set(fewer.numbers) < set(more.numbers):
        return None
    if step in ran_together(more.trace.info):
        return None  # they are of other steps
    slots = _integer_slots(reference, candidate)
    known = {_held(fewer, number, slots) for number in fewer.numbers}
    if not slots or any(_held(more, number, slots) in known for number in added):
        return None
    counts = _counts(reference, candidate)
    sizes = [
        f"{len(run.numbers)}{' micro-batch' if named else ''}"
        f"{'es' if named and len(run.numbers) > 1 else ''}"
        + (f" ({counts[run.side]} samples)" if counts else "")
        for run, named in ((candidate, True), (reference, False))
    ]
    difference = f"step {step}: the candidate has {sizes[0]}, the reference {sizes[1]}"
    is_part = counts and counts[more.side] % counts[fewer.side] == 0
    if is_part and fewer.trace.info.ranks[0].world_size == 1:
        difference += (
            f". The {fewer.side} was recorded as one process: if it is one of several, "
            "let them make one process group before the trace begins"
        )
    return StepSamples(
        step=step,
        sizes={run.side: dict.fromkeys(run.numbers) for run in (reference, candidate)},
        is_by_number=True,
        difference=difference,
        differs_at=more.inputs[added[0]][slots[0]].id,
    )


def _integer_slots(reference: StepInputs, candidate: StepInputs) -> list[str]:
    """Inputs of integers that both runs have."""
    common = [
        slot
        for slot in next(iter(reference.inputs.values()))
        if slot in next(iter(candidate.inputs.values()))
    ]
    return [
        slot
        for slot in common
        if all(
            dtype_named(name).epsilon is None
            for name in reference.dtypes(slot) | candidate.dtypes(slot)
        )
    ]


def _held(run: StepInputs, number: int, slots: list[str]) -> bytes:
    """What a micro-batch was given in some slots: equal bytes for equal values."""
    parts = []
    for slot in slots:
        values = run.values(number, slot)
        assert values is not None, "is_whole comes before"
        parts.append(comparable(values, run.dtypes(slot)).tobytes())
    return b"".join(parts)


def _counts(reference: StepInputs, candidate: StepInputs) -> dict[Side, int]:
    """The samples of each run, by side; empty where no dim is known to count them."""
    for dims in possible_batch_dims(reference.described(), candidate.described()):
        if dims.is_usual:
            slot, dim = next(iter(dims.dims.items()))
            return {
                run.side: sum(run.sizes(slot, dim=dim).values())
                for run in (reference, candidate)
            }
    return {}
