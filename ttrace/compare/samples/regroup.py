"""Presents the candidate in the micro-batches of the reference, sample by sample.

What cannot be matched so is set aside with the reason, and the kinds of the whole step
are compared. ``sample_search`` finds where samples are, ``step_regrouping`` says what
becomes of tensors.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ttrace.compare.samples.later_scaling import LaterScaling, later_scaling
from ttrace.compare.samples.loss_means import loss_means
from ttrace.compare.samples.sample_free import sample_free
from ttrace.compare.samples.sample_search import match_samples
from ttrace.compare.samples.samples import StepSamples
from ttrace.compare.samples.step_regrouping import (
    StepRegrouping,
    lengths_besides_samples,
)
from ttrace.compare.samples.step_totals import step_totals
from ttrace.compare.shown_trace import Combined, ShardKey, ShownTrace
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, PER_MICROBATCH
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrouped:
    """Two runs whose micro-batches hold the same samples, as far as that can be had.

    Attributes:
        reference: The reference; without padding where samples are padded to other
            lengths.
        candidate: The candidate in the micro-batches of the reference, likewise.
        set_aside: Why a tensor of a micro-batch is not compared.
        given_otherwise: Inputs of the model that stand for steps of which the runs were
            not given the same samples, with what differs.
        note: A sentence for the headline; empty where both runs cut all steps alike.
        padded: Steps whose samples were matched, and are padded to other lengths.
    """

    reference: TraceSource
    candidate: TraceSource
    set_aside: Mapping[TensorId, str] = field(default_factory=dict)
    given_otherwise: Mapping[TensorId, str] = field(default_factory=dict)
    note: str = ""
    padded: Mapping[int, StepSamples] = field(default_factory=dict)


def regroup(reference: TraceSource, candidate: TraceSource) -> Regrouped:
    """Matches samples by what they hold, where micro-batches are not the same ones.

    Reads the recorded inputs of the models, activations whose shape is the same in
    micro-batches of all sizes, and where gradients of activations could be compared,
    those of a few parameters.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    found = match_samples(reference, candidate)
    given_otherwise = {
        samples.differs_at: samples.difference
        for samples in found
        if samples.differs_at is not None
    }
    steps = [samples for samples in found if not samples.is_by_number]
    if not steps:
        return Regrouped(
            reference=reference, candidate=candidate, given_otherwise=given_otherwise
        )
    index = _StepIndex(reference.info, candidate.info)
    other_lengths = lengths_besides_samples(reference.info)
    tensors = dict(candidate.info.tensors)
    shown = dict(reference.info.tensors)
    skipped = dict(candidate.info.skipped)
    set_aside: dict[TensorId, str] = {}
    combined: dict[Side, dict[ShardKey, Combined]] = {side: {} for side in Side}
    of_losses: set[str] = set()
    divided: dict[tuple[Side, int], None] = {}
    is_matched = False
    for samples in steps:
        if samples.places is None:
            set_aside |= _whole_step(samples, index)
            continue
        is_matched = True
        step = samples.step
        of_candidate = _of_microbatches(index.tensors[Side.CANDIDATE].get(step, {}))
        of_skipped = _of_microbatches(index.skipped[Side.CANDIDATE].get(step, {}))
        of_reference = _of_microbatches(index.tensors[Side.REFERENCE].get(step, {}))
        traces = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
        losses = loss_means(
            samples,
            traces,
            {Side.REFERENCE: of_reference, Side.CANDIDATE: of_candidate},
        )
        scaling = _later_scaling(samples, traces, index)
        obstacle = _gradients_obstacle(scaling)
        if obstacle is None:
            divisors = {side: scaling[side].divisor for side in Side}
            of_whole = _of_whole_loss(of_candidate, divisors)
            of_candidate |= of_whole
            if of_whole:
                divided |= dict.fromkeys(divisors.items())
        regrouping = StepRegrouping(
            samples,
            of_reference,
            of_candidate,
            skipped=of_skipped,
            other_lengths=other_lengths,
            gradients_obstacle=obstacle,
            losses=losses,
            totals=step_totals(reference, candidate, of_reference, of_candidate),
            sample_free=sample_free(reference, candidate, of_reference, of_candidate),
        )
        for id_ in of_candidate:
            del tensors[id_]
        for id_ in of_skipped:
            del skipped[id_]
        tensors |= regrouping.tensors()
        skipped |= regrouping.skipped()
        set_aside |= regrouping.set_aside
        shown |= regrouping.reference
        of_losses |= losses.how
        for side in Side:
            combined[side] |= losses.combined[side]
    info = TraceInfo(ranks=candidate.info.ranks, tensors=tensors, skipped=skipped)
    if shown != reference.info.tensors or combined[Side.REFERENCE]:
        reference = ShownTrace(
            reference,
            replace(reference.info, tensors=shown),
            combined=combined[Side.REFERENCE],
        )
    return Regrouped(
        reference=reference,
        candidate=ShownTrace(candidate, info, combined=combined[Side.CANDIDATE]),
        set_aside=set_aside,
        given_otherwise=given_otherwise,
        note=" ".join(
            [
                _note(steps, of_losses, is_matched=is_matched),
                *(
                    f"The {side} divides the sum of its gradients by {divisor} after "
                    "the backward: so are its gradients of activations for the "
                    "comparison."
                    for side, divisor in divided
                    if divisor > 1
                ),
            ]
        ),
        padded={
            samples.step: samples
            for samples in steps
            if samples.mask and samples.places is not None
        },
    )


class _StepIndex:
    """What both runs recorded and skipped, by side and step."""

    def __init__(self, reference: TraceInfo, candidate: TraceInfo):
        infos = {Side.REFERENCE: reference, Side.CANDIDATE: candidate}
        self.tensors = {side: _by_step(info.tensors) for side, info in infos.items()}
        self.skipped = {side: _by_step(info.skipped) for side, info in infos.items()}


def _by_step(records: Mapping[TensorId, _T]) -> dict[int, dict[TensorId, _T]]:
    found: dict[int, dict[TensorId, _T]] = {}
    for id_, record in records.items():
        found.setdefault(id_.step, {})[id_] = record
    return found


def _of_microbatches(records: Mapping[TensorId, _T]) -> dict[TensorId, _T]:
    return {
        id_: record
        for id_, record in records.items()
        if id_.kind in PER_MICROBATCH and id_.microbatch is not None
    }


def _note(
    steps: Sequence[StepSamples], of_losses: Collection[str], *, is_matched: bool
) -> str:
    first = steps[0]
    where = f"step {first.step}"
    if len(steps) > 1:
        where += f" and {len(steps) - 1} more"
    if first.is_cut_alike and first.mask:
        sentence = f"The runs pad the samples of {where} differently: "
    elif first.is_cut_alike:
        sentence = f"The runs order the samples of {where} differently: "
    else:
        sentence = f"The runs split {where} into micro-batches differently: "
    sentence += f"{first.sizes_sentence}. "
    if is_matched and first.mask:
        return sentence + (
            "Samples were matched by the rows of the model's inputs, and compared "
            f"where the input {first.mask} does not mask them."
        )
    if is_matched:
        sentence += "Samples were matched by the rows of the model's inputs."
        if of_losses:
            how = " or the ".join(sorted(of_losses))
            sentence += f" Of losses the {how} was compared."
        return sentence
    return sentence + (
        f"Only kinds of the whole step were compared there, as {first.obstacle}."
    )


def _whole_step(samples: StepSamples, index: _StepIndex) -> dict[TensorId, str]:
    """Sets all aside that both runs have in micro-batches, of other samples.

    What only one of them has at all is left to be unmatched.
    """
    ids = [
        [
            id_
            for of_steps in (index.tensors[side], index.skipped[side])
            for id_ in _of_microbatches(of_steps.get(samples.step, {}))
        ]
        for side in Side
    ]
    names = [{_name_of_any_call(id_) for id_ in of_run} for of_run in ids]
    common = names[0] & names[1]
    reason = f"{samples.sizes_sentence}; {samples.obstacle}"
    return {
        id_: reason
        for id_ in itertools.chain(*ids)
        if _name_of_any_call(id_) in common and id_ != samples.differs_at
    }


def _name_of_any_call(id_: TensorId) -> TensorId:
    # A recomputation is matched with the first forward of a run that makes none.
    return replace(id_, microbatch=None, call=0, pass_=Pass.FORWARD)


def _later_scaling(
    samples: StepSamples, traces: Mapping[Side, TraceSource], index: _StepIndex
) -> dict[Side, LaterScaling]:
    """What either run does to the gradients of a step behind its backward."""
    return {
        side: later_scaling(
            trace, index.tensors[side].get(samples.step, {}), samples.sizes[side]
        )
        for side, trace in traces.items()
    }


def _gradients_obstacle(scaling: Mapping[Side, LaterScaling]) -> str | None:
    """Why gradients of activations may differ by an unknown factor, or None."""
    return next(
        (
            f"{side}: {of_run.obstacle}"
            for side, of_run in scaling.items()
            if of_run.obstacle is not None
        ),
        None,
    )


def _of_whole_loss(
    records: Mapping[TensorId, TensorRecord], divisors: Mapping[Side, int]
) -> dict[TensorId, TensorRecord]:
    """The candidate's gradients of activations as the reference has them.

    Where a run takes the mean of its micro-batches behind the backward, they are so
    many times those of the whole step's loss.

    Args:
        records: Of the candidate.
        divisors: Of both runs.
    """
    factor = divisors[Side.CANDIDATE] / divisors[Side.REFERENCE]
    if factor == 1:
        return {}
    return {
        id_: TensorRecord(
            id=id_,
            shards=tuple(
                replace(shard, scale=shard.scale * factor) for shard in record.shards
            ),
        )
        for id_, record in records.items()
        if id_.kind in GRADIENTS and id_.kind in ACTIVATIONS
    }
