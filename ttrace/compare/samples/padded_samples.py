"""Finds which sample is where, in runs that pad samples to other lengths.

A mask among the model's inputs says which positions of each sample are no padding. What
is taken for such a mask must prove it: what it leaves of the samples of the one run has
to be, sample by sample, what it leaves of those of the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.compare.samples.model_inputs import StepInputs, comparable
from ttrace.compare.samples.sample_pairs import SamplePairs, pair_samples
from ttrace.compare.samples.samples import Place, Span, StepSamples


def match_padded(
    step: int, reference: StepInputs, candidate: StepInputs
) -> StepSamples | None:
    """Matches samples by the positions that a mask leaves in; None where none does.

    Args:
        step: Its number.
        reference: What the reference was given, whole.
        candidate: Likewise.
    """
    runs = (reference, candidate)
    found: list[StepSamples] = []
    for mask in _masks(reference, candidate):
        for is_padding in (0, 1):  # what the mask has where a position is padding
            spans = [_spans(run, mask, is_padding) for run in runs]
            if spans[0] is None or spans[1] is None:
                continue
            slots = slots_like(mask, reference, candidate)
            pairs = _pairs(reference, candidate, slots, (spans[0], spans[1]))
            if pairs is None:
                continue
            found.append(
                StepSamples(
                    step=step,
                    sizes={run.side: run.sizes(mask, dim=0) for run in runs},
                    lengths={run.side: run.sizes(mask, dim=1) for run in runs},
                    spans={
                        run.side: of_run
                        for run, of_run in zip(runs, spans, strict=True)
                        if of_run is not None
                    },
                    mask=mask,
                    places=pairs.places,
                    repeated=pairs.repeated,
                )
            )
    # Other inputs may be zeros and ones, too, and leave less.
    return max(found, key=_num_positions, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedRows:
    """What samples hold where a mask leaves them in.

    Attributes:
        slot: The input that is read.
        rows: Of the reference and of the candidate, sample by sample.
    """

    slot: str
    rows: tuple[Mapping[Place, bytes], Mapping[Place, bytes]]


def masked_rows(
    reference: StepInputs, candidate: StepInputs
) -> Iterator[tuple[str, MaskedRows]]:
    """By each mask what one other input holds, the first that is no mask itself.

    Args:
        reference: What the reference was given, whole.
        candidate: Likewise.
    """
    for mask in _masks(reference, candidate):
        slots = [
            slot
            for slot in slots_like(mask, reference, candidate)
            if not reference.is_binary(slot)
        ]
        for is_padding in (0, 1) if slots else ():
            spans = [_spans(run, mask, is_padding) for run in (reference, candidate)]
            if spans[0] is None or spans[1] is None:
                continue
            slot = slots[0]
            dtypes = {slot: reference.dtypes(slot) | candidate.dtypes(slot)}
            rows = (
                _rows(reference, dtypes, spans[0]),
                _rows(candidate, dtypes, spans[1]),
            )
            yield mask, MaskedRows(slot=slot, rows=rows)


def _pairs(
    reference: StepInputs,
    candidate: StepInputs,
    slots: Sequence[str],
    spans: tuple[Mapping[Place, Span], Mapping[Place, Span]],
) -> SamplePairs | None:
    """Pairs all samples by what they hold where they are no padding.

    By those inputs of which both runs have the same, if not of all: the others are then
    compared, and say that they differ. None where some sample has no equal.
    """

    def paired(by: Sequence[str]) -> SamplePairs | None:
        dtypes = {s: reference.dtypes(s) | candidate.dtypes(s) for s in by}
        pairs = pair_samples(
            reference.by_evaluation(_rows(reference, dtypes, spans[0])),
            candidate.by_evaluation(_rows(candidate, dtypes, spans[1])),
        )
        return None if pairs.missing or pairs.extra else pairs

    if not slots:
        return None
    pairs = paired(slots)
    if pairs is not None or len(slots) == 1:
        return pairs
    equal = [
        slot
        for slot in slots
        if paired([slot]) is not None and not reference.is_binary(slot)
    ]
    pairs = paired(equal) if equal else None
    return None if pairs is None or pairs.repeated else pairs


def _num_positions(samples: StepSamples) -> int:
    return sum(
        span.length for of_run in samples.spans.values() for span in of_run.values()
    )


def _masks(reference: StepInputs, candidate: StepInputs) -> Iterator[str]:
    """Inputs of zeros and ones, ``[samples, positions]``."""
    runs = (reference, candidate)
    common = set.intersection(*(set(next(iter(run.inputs.values()))) for run in runs))
    for slot in sorted(common):
        if all(
            values is not None and values.ndim == 2
            for run in runs
            for values in (run.values(number, slot) for number in run.numbers)
        ) and all(run.is_binary(slot) for run in runs):
            yield slot


def _spans(run: StepInputs, mask: str, is_padding: int) -> dict[Place, Span] | None:
    """The positions of every sample; None where a sample's are not contiguous."""
    spans = {}
    for number in run.numbers:
        values = run.values(number, mask)
        assert values is not None, "is_whole comes before"
        for row, of_row in enumerate(values):
            (kept,) = np.nonzero(of_row != is_padding)
            if not kept.size or kept[-1] - kept[0] + 1 != kept.size:
                return None
            place = Place(microbatch=number, row=row)
            spans[place] = Span(start=int(kept[0]), length=kept.size)
    return spans


def slots_like(mask: str, reference: StepInputs, candidate: StepInputs) -> list[str]:
    """The other inputs whose first dims count what the mask's do."""
    runs = (reference, candidate)
    common = set.intersection(*(set(next(iter(run.inputs.values()))) for run in runs))
    return [
        slot
        for slot in sorted(common - {mask})
        if all(
            slots[slot].global_shape[:2] == slots[mask].global_shape
            for run in runs
            for slots in run.inputs.values()
        )
    ]


def _rows(
    run: StepInputs, dtypes: Mapping[str, set[str]], spans: Mapping[Place, Span]
) -> dict[Place, bytes]:
    """What each sample holds where it is no padding."""
    found: dict[Place, bytes] = {}
    for number in run.numbers:
        of_slots = []
        for slot, names in dtypes.items():
            values = run.values(number, slot)
            assert values is not None, "is_whole comes before"
            of_slots.append(comparable(values, names))
        num_rows = len(of_slots[0]) if of_slots else 0
        for row in range(num_rows):
            place = Place(microbatch=number, row=row)
            span = spans[place]
            kept = slice(span.start, span.start + span.length)
            found[place] = b"".join(values[row, kept].tobytes() for values in of_slots)
    return found
