"""Outputs that nothing uses, of samples that are padded to other lengths.

A recurrent layer returns its last state, behind the padding: of the same samples it is
another one under other padding. Where the loss does not depend on it, that is nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.samples.samples import Place, StepSamples
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict


def skip_unused_outputs(
    verdicts: Sequence[TensorVerdict],
    padded: Mapping[int, StepSamples],
    reference: TraceSource,
    candidate: TraceSource,
) -> tuple[TensorVerdict, ...]:
    """Skips failed outputs that other padding explains, and that nothing depends on.

    An output that has no gradient in the reference, while another one of the same call
    agrees and has one there; that no module of the reference is given; and that differs
    only in samples that the runs pad unlike. What the module is given must agree. Where
    the candidate makes use of it, that is the mistake, and shows in what is computed
    from it. What fails behind the call says nothing of it.

    Args:
        verdicts: One per tensor.
        padded: Steps whose samples the runs pad to other lengths.
        reference: The trusted run; only what failed is read, and what is as large.
        candidate: The run under test, in the micro-batches of the reference.

    Returns:
        The verdicts, those on such outputs turned from failed to skipped.
    """
    asked = [v for v in verdicts if v.id.step in padded and _may_be_unused(v)]
    if not asked:
        return tuple(verdicts)
    calls = _Calls(verdicts)
    sides = (reference, candidate)
    unused = {
        v.id: _reason(v.id)
        for v in asked
        if calls.has_other_gradient(v.id, reference)
        and calls.agrees(v.id)
        and not (_has_gradient(v.id, reference) or _is_given(v.id, reference))
        and _is_by_padding(v, padded[v.id.step], sides)
    }
    return tuple(
        replace(v, status=Status.SKIPPED, reason=unused[v.id], cause=None, margin=None)
        if v.id in unused
        else v
        for v in verdicts
    )


def _may_be_unused(verdict: TensorVerdict) -> bool:
    return failed_by_values(verdict) and verdict.id.kind is Kind.OUTPUT


def _reason(output: TensorId) -> str:
    return (
        f"the runs pad samples to other lengths, and output {output.slot} of "
        f"{output.module} differs in those alone that they pad unlike; nothing uses "
        "it in the reference: no module is given it, and it has no gradient, while "
        "another output has"
    )


class _Calls:
    """What became of all that a call of a module was given and returned."""

    def __init__(self, verdicts: Iterable[TensorVerdict]):
        self._gradients: dict[TensorId, set[str | None]] = {}
        self._passed: set[TensorId] = set()
        self._bad: dict[TensorId, set[str | None]] = {}
        for verdict in verdicts:
            id_ = verdict.id
            call = _call_of(id_)
            passed = verdict.status is Status.PASSED and not verdict.noise_dominated
            is_bad = verdict.status in (Status.FAILED, Status.UNMATCHED)
            if id_.kind is Kind.GRAD_OUTPUT:
                self._gradients.setdefault(call, set()).add(id_.slot)
            if id_.kind in (Kind.INPUT, Kind.OUTPUT):
                if passed and id_.kind is Kind.INPUT:
                    self._passed.add(call)
                elif is_bad:
                    slot = id_.slot if id_.kind is Kind.OUTPUT else None
                    self._bad.setdefault(call, set()).add(slot)
            if id_.kind is Kind.OUTPUT and passed:
                self._passed.add(id_)

    def has_other_gradient(self, output: TensorId, run: TraceSource) -> bool:
        """Whether another output of the call agrees, and has a gradient in a run."""
        for slot in self._gradients.get(_call_of(output), set()) - {output.slot}:
            other = replace(output, slot=slot)
            gradient = replace(other, kind=Kind.GRAD_OUTPUT)
            if other in self._passed and gradient in run.info.tensors:
                return True
        return False

    def agrees(self, output: TensorId) -> bool:
        """Whether what the call is given was compared, and nothing of it differs."""
        call = _call_of(output)
        return call in self._passed and None not in self._bad.get(call, set())


def _call_of(tensor_id: TensorId) -> TensorId:
    return replace(tensor_id, kind=Kind.INPUT, slot=None)


def _has_gradient(output: TensorId, run: TraceSource) -> bool:
    """Whether a run has the gradient of an output, with or without its values."""
    gradient = replace(output, kind=Kind.GRAD_OUTPUT)
    nowhere = replace(gradient, slot=None, call=0, pass_=Pass.FORWARD)
    return not {gradient, nowhere}.isdisjoint({*run.info.tensors, *run.info.skipped})


def _is_given(output: TensorId, run: TraceSource) -> bool:
    """Whether a module is given what holds the same; in any step, as states are."""
    content = _content(output, run)
    if content is None:
        return True  # it is not known
    size = int(np.prod(run.info.tensors[output].global_shape))
    return any(
        id_.kind is Kind.INPUT
        and int(np.prod(record.global_shape)) == size
        and _content(id_, run) == content
        for id_, record in run.info.tensors.items()
    )


def _content(tensor_id: TensorId, run: TraceSource) -> bytes | None:
    values = values_of(tensor_id, run)
    return None if values is None else hashlib.blake2b(values.tobytes()).digest()


def _is_by_padding(
    verdict: TensorVerdict, samples: StepSamples, sides: Sequence[TraceSource]
) -> bool:
    """Whether all samples that the runs pad alike agree, if there are any."""
    output = verdict.id
    assert output.microbatch is not None
    if samples.places is None or output.microbatch not in samples.places:
        return False
    places = samples.places[output.microbatch]
    alike = [
        row
        for row, place in enumerate(places)
        if _padding(
            samples, Side.REFERENCE, Place(microbatch=output.microbatch, row=row)
        )
        == _padding(samples, Side.CANDIDATE, place)
    ]
    if not alike:
        return True
    theirs, ours = (values_of(output, side) for side in sides)
    if theirs is None or ours is None or verdict.tolerance is None:
        return False
    dims = [dim for dim, n in enumerate(theirs.shape) if n == len(places)]
    if len(dims) != 1:
        return False
    difference = np.take(ours - theirs, alike, axis=dims[0])
    return bool(np.linalg.norm(difference) <= verdict.tolerance.difference_norm)


def _padding(samples: StepSamples, side: Side, place: Place) -> tuple[int, int]:
    """Positions in front of a sample, and behind it."""
    span = samples.spans[side][place]
    length = samples.lengths[side][place.microbatch]
    return span.start, length - span.start - span.length
