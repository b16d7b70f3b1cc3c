"""Finds which sample of a step is where, by the rows of what the models were given.

Two runs may cut one global batch into micro-batches of other sizes, or give it in
another order. The rows of the recorded inputs of the model tell which sample of the
one run is which of the other. Nothing else is taken for a sample: neither its number
nor its length. ``padded_samples`` looks for those that are padded to other lengths.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.samples.batch_dims import BatchDims, possible_batch_dims
from ttrace.compare.samples.batch_sizes import BatchSizes
from ttrace.compare.samples.fewer_samples import fewer_samples
from ttrace.compare.samples.model_inputs import StepInputs, comparable, step_inputs
from ttrace.compare.samples.other_steps import OtherSteps
from ttrace.compare.samples.padded_samples import match_padded, slots_like
from ttrace.compare.samples.parted_samples import parted_ranks
from ttrace.compare.samples.sample_pairs import pair_samples
from ttrace.compare.samples.samples import Place, StepSamples
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import ACTIVATIONS
from ttrace.ir.side import Side
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource


def match_samples(
    reference: TraceSource, candidate: TraceSource
) -> tuple[StepSamples, ...]:
    """Finds the steps whose micro-batches do not hold the same samples.

    Reads the recorded inputs of the models, and no other values.

    Returns:
        One entry for each such step; none where micro-batches of equal number were
        given the same, or where it is not known what they were given and they have
        the same shapes. Where one run has more of them, of other samples, that is said.

    Raises:
        CorruptTraceError: The bytes of an input are not those that were written.
    """
    of_reference = step_inputs(Side.REFERENCE, reference)
    of_candidate = step_inputs(Side.CANDIDATE, candidate)
    steps = OtherSteps(of_reference, of_candidate)
    batches = BatchSizes()
    found = (
        _match_step(step, steps, batches)
        for step in sorted(set(of_reference) & set(of_candidate))
    )
    return tuple(samples for samples in found if samples is not None)


def _match_step(
    step: int, steps: OtherSteps, batches: BatchSizes
) -> StepSamples | None:
    """What is known of a step's samples; None where tensors are matched by number."""
    reference, candidate = (steps.runs[side][step] for side in Side)
    has_as_many = reference.numbers == candidate.numbers
    if not (reference.inputs and candidate.inputs):
        infos = (reference.trace.info, candidate.trace.info)
        if has_as_many or not _activations_differ(step, *infos):
            return None
        side = candidate.side if reference.inputs else reference.side
        obstacle = f"the {side} recorded no input of the model (@root/input)"
        return _unknown(step, reference, candidate, obstacle)
    no_common_input = _no_common_input(reference, candidate)
    if no_common_input:
        return (
            None
            if has_as_many
            else _unknown(step, reference, candidate, no_common_input)
        )
    obstacle = _obstacle(reference) or _obstacle(candidate)
    if _given_the_same(reference, candidate):
        is_known = not (has_as_many or obstacle)
        fewer = fewer_samples(step, reference, candidate) if is_known else None
        if fewer is not None:  # a mask may prove itself here, for later steps
            batches.differing(step, reference, candidate)
        return fewer
    samples = None if obstacle else _match_rows(step, steps)
    if samples is not None and samples.places is not None:
        # Where all have kept their places, the inputs say themselves what differs.
        return None if _is_identity(samples) else samples
    padded = None if obstacle else match_padded(step, reference, candidate)
    if padded is not None and padded.is_padded_alike:
        if _is_identity(padded):
            return None
        return _of_whole_rows(padded, reference, candidate) or padded
    if padded is not None:
        return padded
    if has_as_many and _shapes(reference) == _shapes(candidate):
        return None  # the inputs are compared one by one, and say what differs
    if obstacle is None and samples is None:
        other_batch = batches.differing(step, reference, candidate)
        if other_batch is not None:
            return other_batch
        if has_as_many:
            return None  # their shapes say what differs
        obstacle = (
            "the inputs of the model differ in more than the number of samples, as "
            "where samples are padded to other lengths, and none of them is a mask of "
            "zeros and ones without whose zeros the samples are the same"
        )
    return samples or _unknown(step, reference, candidate, obstacle or "")


def _is_identity(samples: StepSamples) -> bool:
    return samples.is_cut_alike and all(
        place == Place(microbatch=number, row=row)
        for number, places in (samples.places or {}).items()
        for row, place in enumerate(places)
    )


def _of_whole_rows(
    samples: StepSamples, reference: StepInputs, candidate: StepInputs
) -> StepSamples | None:
    """Samples that are padded alike, with their padding; None where that differs.

    One input has to be the same in it, one that is not all zeros and ones: the others
    are then compared whole, and say themselves that they differ.
    """
    for slot in slots_like(samples.mask, reference, candidate):
        dims = BatchDims(dims={slot: 0}, is_usual=True)
        if reference.is_binary(slot):
            continue
        whole = _match_along(dims, samples.step, reference, candidate)
        if isinstance(whole, StepSamples) and not whole.repeated:
            return whole
    return None


def _unknown(
    step: int, reference: StepInputs, candidate: StepInputs, obstacle: str
) -> StepSamples:
    return StepSamples(
        step=step,
        sizes={run.side: dict.fromkeys(run.numbers) for run in (reference, candidate)},
        obstacle=obstacle,
    )


def _obstacle(run: StepInputs) -> str | None:
    """Why a run's samples cannot be told, or None."""
    if run.has_calls:
        return (
            f"the {run.side} calls the model several times in a micro-batch (of a JAX "
            "step that accumulates gradients say jax_capture.trace(microbatches=...))"
        )
    if run.is_filtered:
        return f"a filter left samples out of the recorded {run.side}"
    if not run.is_whole():
        return f"the ranks of the {run.side} do not have the inputs of the model whole"
    return None


def _no_common_input(reference: StepInputs, candidate: StepInputs) -> str | None:
    """That no input has one name in both runs, or None."""
    slots = [next(iter(run.inputs.values())) for run in (reference, candidate)]
    if set(slots[0]) & set(slots[1]):
        return None
    names = [", ".join(f"@root/input/{slot}" for slot in of_run) for of_run in slots]
    return (
        "no input of the model has one name in both runs (reference: "
        f"{names[0]}; candidate: {names[1]}; a map can match them)"
    )


def _shapes(run: StepInputs) -> dict[int, dict[str, tuple[int, ...]]]:
    return {
        number: {slot: record.global_shape for slot, record in slots.items()}
        for number, slots in run.inputs.items()
    }


def _activations_differ(step: int, reference: TraceInfo, candidate: TraceInfo) -> bool:
    """Whether micro-batches of one number are not of one size, as far as is known."""
    shapes = [
        (record.global_shape, candidate.tensors[id_].global_shape)
        for id_, record in reference.tensors.items()
        if id_.step == step and id_.kind in ACTIVATIONS and id_ in candidate.tensors
    ]
    return not shapes or any(first != second for first, second in shapes)


def _given_the_same(reference: StepInputs, candidate: StepInputs) -> bool:
    """Whether micro-batches of one number were given the same, wherever both are."""
    common = sorted(set(reference.inputs) & set(candidate.inputs))
    for number in common:
        slots = (reference.inputs[number], candidate.inputs[number])
        for slot in sorted(set(slots[0]) & set(slots[1])):
            if slots[0][slot].global_shape != slots[1][slot].global_shape:
                return False
            first = reference.values(number, slot)
            second = candidate.values(number, slot)
            if first is None or second is None:
                continue
            dtypes = reference.dtypes(slot) | candidate.dtypes(slot)
            values = [comparable(array, dtypes) for array in (first, second)]
            if values[0].tobytes() != values[1].tobytes():
                return False
    return bool(common)


def _match_rows(step: int, steps: OtherSteps) -> StepSamples | None:
    """Matches samples along the dim that counts them, or the likeliest such dim.

    None where no dim may count them.
    """
    reference, candidate = (steps.runs[side][step] for side in Side)
    differing: _Differing | None = None
    for dims in possible_batch_dims(reference.described(), candidate.described()):
        samples = _match_along(dims, step, reference, candidate)
        if isinstance(samples, _Differing):
            samples = (
                _match_by_integers(dims, step, reference, candidate)
                or _match_by_equal_slots(dims, step, reference, candidate)
                or samples
            )
        if isinstance(samples, StepSamples):
            return samples
        if dims.is_usual:
            differing = differing or samples
    if differing is None:
        return None
    return _not_the_same(step, differing, steps)


def _match_by_integers(
    dims: BatchDims, step: int, reference: StepInputs, candidate: StepInputs
) -> StepSamples | None:
    """Matches samples by their integers alone, if these tell each from all others.

    What else a model is given may be what it has computed before, as a state that is
    carried over: equal but for rounding.
    """
    integers = {
        slot: dim
        for slot, dim in dims.dims.items()
        if all(
            dtype_named(name).epsilon is None
            for name in reference.dtypes(slot) | candidate.dtypes(slot)
        )
    }
    if not integers or len(integers) == len(dims.dims):
        return None
    return _match_of(integers, dims, step, reference, candidate)


def _match_by_equal_slots(
    dims: BatchDims, step: int, reference: StepInputs, candidate: StepInputs
) -> StepSamples | None:
    """Matches samples by those inputs of which both runs have the same rows.

    The other inputs, such as labels that only one run masks, are then compared, and say
    themselves that they differ. So does one that goes with other samples.
    """
    equal = {
        slot: dim
        for slot, dim in dims.dims.items()
        if isinstance(
            _match_along(replace(dims, dims={slot: dim}), step, reference, candidate),
            StepSamples,
        )
        and not reference.is_binary(slot)
    }
    if len(equal) < len(dims.dims):
        if not equal:
            return None
        return _match_of(equal, dims, step, reference, candidate)
    # Each has the same rows, and one of them goes with other rows of the rest.
    for left_out in reversed(equal):
        rest = {slot: dim for slot, dim in equal.items() if slot != left_out}
        found = _match_of(rest, dims, step, reference, candidate) if rest else None
        if found is not None:
            return found
    return None


def _match_of(
    slots: Mapping[str, int],
    dims: BatchDims,
    step: int,
    reference: StepInputs,
    candidate: StepInputs,
) -> StepSamples | None:
    """Matches samples by some inputs, if these tell each from all others."""
    samples = _match_along(replace(dims, dims=slots), step, reference, candidate)
    if isinstance(samples, _Differing) or samples.repeated:
        return None
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differing:
    """Samples of a step of which either run has some that the other one lacks.

    Attributes:
        dims: The dim that counts samples, by slot.
        rows: What each sample holds, by side.
        missing: Those of the reference.
        extra: Those of the candidate.
    """

    dims: Mapping[str, int]
    rows: Mapping[Side, Mapping[Place, bytes]]
    missing: Sequence[Place]
    extra: Sequence[Place]


def _match_along(
    dims: BatchDims, step: int, reference: StepInputs, candidate: StepInputs
) -> StepSamples | _Differing:
    """Matches the rows along some dims, of inputs that are there whole."""
    dtypes = {s: reference.dtypes(s) | candidate.dtypes(s) for s in dims.dims}
    of_reference = reference.rows(dims.dims, dtypes)
    of_candidate = candidate.rows(dims.dims, dtypes)
    pairs = pair_samples(
        reference.by_evaluation(of_reference), candidate.by_evaluation(of_candidate)
    )
    rows = {reference.side: of_reference, candidate.side: of_candidate}
    if pairs.missing or pairs.extra:
        return _Differing(
            dims=dims.dims, rows=rows, missing=pairs.missing, extra=pairs.extra
        )
    return StepSamples(
        step=step,
        sizes={side: _sizes(of_run) for side, of_run in rows.items()},
        places=pairs.places,
        repeated=pairs.repeated,
    )


def _not_the_same(step: int, found: _Differing, steps: OtherSteps) -> StepSamples:
    """A step in which the runs were not given the same samples, in words."""
    missing, extra = found.missing, found.extra
    rows = [found.rows[side] for side in Side]
    slot, dim = next(iter(found.dims.items()))
    reference, candidate = (steps.runs[side][step] for side in Side)
    run, first = (reference, missing[0]) if missing else (candidate, extra[0])
    elsewhere = _parted(candidate) or steps.sentence(
        step,
        found.dims,
        [rows[0][place] for place in missing],
        [rows[1][place] for place in extra],
    )
    return StepSamples(
        step=step,
        sizes={side: _sizes(of_run) for side, of_run in found.rows.items()},
        obstacle="the runs were not given the same samples",
        difference=f"{_totals(len(rows[0]), len(rows[1]))} (rows along dim "
        f"{dim}), of which {len(missing)} of the reference and {len(extra)} of the "
        "candidate have no equal in the other run in this step; first: row "
        f"{first.row} of micro-batch {first.microbatch} of the {run.side}"
        + (elsewhere or _repeated_and_dropped(rows[0], rows[1], missing, extra)),
        differs_at=run.inputs[first.microbatch][slot].id,
    )


def _parted(candidate: StepInputs) -> str:
    """That ranks were given others than those that they share micro-batches with."""
    records = [one for slots in candidate.inputs.values() for one in slots.values()]
    pairs = parted_ranks(records, candidate.trace)
    if not pairs:
        return ""
    more = f", and {len(pairs) - 1} more rank{'s' * (len(pairs) > 2)} likewise"
    return (
        f": rank {pairs[0].rank} of the candidate has other samples than rank "
        f"{pairs[0].against}, with which it shares its micro-batches"
        + (more if len(pairs) > 1 else "")
    )


def _repeated_and_dropped(
    of_reference: Mapping[Place, bytes],
    of_candidate: Mapping[Place, bytes],
    missing: Sequence[Place],
    extra: Sequence[Place],
) -> str:
    """That the candidate has the reference's samples, but not each of them once."""
    known = set(of_reference.values())
    if not all(of_candidate[place] in known for place in extra):
        return ""  # it has others, too
    found = []
    if extra:
        found.append(f"gives {_samples(len(extra))} of this step again")
    if missing:
        found.append(f"leaves {_samples(len(missing))} out")
    return f": the candidate {' and '.join(found)}; look at its sampler"


def _samples(number: int) -> str:
    return f"{number} sample" + ("" if number == 1 else "s")


def _sizes(rows: Mapping[Place, bytes]) -> dict[int, int | None]:
    return dict(Counter(place.microbatch for place in rows))


def _totals(reference: int, candidate: int) -> str:
    if reference == candidate:
        return f"{reference} samples in either run"
    return f"{reference} samples in the reference, {candidate} in the candidate"
