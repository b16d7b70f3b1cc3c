"""What is looked into of the places that are wrong, and where it lies in both runs."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId, parse_tensor_id
from ttrace.ir.trace_source import TraceSource
from ttrace.report.isolation import IsolatedPlace
from ttrace.report.model import Report, TensorReport

RecordReference = Callable[[CaptureFilter], TraceSource]
"""Runs the reference once more, recording what a filter lets through."""

Held = tuple[TensorId, int]

_MAX_PLACES = 4
"""Places that are looked into."""

_FORWARD = frozenset({Kind.OUTPUT, Kind.INPUT})

_BACKWARD = frozenset({Kind.GRAD_INPUT, Kind.GRAD_OUTPUT, Kind.PARAM_GRAD})

OF_OTHERS = frozenset({Kind.INPUT, Kind.GRAD_OUTPUT})
"""What comes to a module from the code of that around it, which makes it."""

_MAX_SLACK = 10.0
"""How much more than a module's output what is inside of it may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wrong of a place, and where it lies in both runs.

    Attributes:
        place: Which of the places.
        id: The tensor that is wrong, under the reference's names.
        module: Whose operations make it, under the reference's names.
        own_module: The same under the candidate's.
        own: The recorded tensors of the candidate, with their ranks, that it is of.
        tolerance: Largest relative difference of what agrees.
        scale: Known factor of the candidate's values over the reference's.
        is_whole: What ranks hold of it must not be parts of a sum.
    """

    place: int
    id: TensorId
    module: str
    own_module: str
    own: frozenset[Held]
    tolerance: float
    scale: float = 1.0
    is_whole: bool = True

    @property
    def is_backward(self) -> bool:
        """Whether a backward makes it."""
        return self.id.kind in _BACKWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideRequest:
    """What is looked into, and how the runs are made.

    Attributes:
        reference: The reference as it was recorded.
        again: The candidate that ran on the reference's values.
        report: The comparison of both.
        overwritten: Where the candidate holds what was overwritten, by the id under
            which it is compared.
        step: The step that counts.
        record_reference: Runs the reference once more; None where nobody can.
        record_candidate: Runs the candidate once more, on the same values.
    """

    reference: TraceSource
    again: TraceSource
    report: Report
    overwritten: Mapping[TensorId, Collection[Held]]
    step: int
    record_reference: RecordReference | None
    record_candidate: Callable[[CaptureFilter], TraceSource]


def plan_targets(
    places: Sequence[IsolatedPlace], request: InsideRequest
) -> tuple[Target, ...]:
    """What of the places is looked into; of the backward where the forward is right."""
    by_id = {tensor.id: tensor for tensor in request.report.tensors}
    targets = []
    for number, place in enumerate(places):
        ids = [parse_tensor_id(text) for text in place.ids]
        own = [
            id_
            for id_ in ids
            if id_.pass_ is Pass.FORWARD
            and (id_.kind in OF_OTHERS) == (id_.module != place.module)
        ]
        wrong = [id_ for id_ in own if id_.kind in _FORWARD]
        wrong += [id_ for id_ in own if id_.kind in _BACKWARD]
        if not wrong or len(targets) == _MAX_PLACES:
            continue
        first = wrong[0]
        held = _own_tensors(first, place.module, request)
        names = {id_.module for id_, _ in held if id_.kind not in OF_OTHERS}
        if first.kind not in OF_OTHERS:
            names = {id_.module for id_, _ in held}
        targets.append(
            Target(
                place=number,
                id=first,
                module=place.module,
                own_module=min(names, default=place.module),
                own=held,
                tolerance=_tolerance(by_id.get(str(first))),
                scale=_scale(first, held, request),
                is_whole=_is_whole(held, request),
            )
        )
    return tuple(targets)


def _own_tensors(id_: TensorId, module: str, request: InsideRequest) -> frozenset[Held]:
    """Where the candidate holds what is wrong: the id of the tensor, and the ranks.

    The inputs of the same call were overwritten, and say under which name.
    """
    around = [
        (own, rank)
        for compared, held in request.overwritten.items()
        if compared.module == module
        and (compared.step, compared.microbatch) == (id_.step, id_.microbatch)
        and compared.kind is Kind.INPUT
        and (
            id_.kind in OF_OTHERS
            or id_.kind is Kind.PARAM_GRAD
            or compared.call == id_.call
        )
        for own, rank in held
    ]
    if id_.kind in OF_OTHERS:
        held = request.overwritten.get(id_, ())
        own_module = min((own.module for own, _ in around), default=module)
        return frozenset(
            {
                *held,
                *(
                    (replace(own, module=own_module, kind=Kind.OUTPUT), rank)
                    for own, rank in around
                ),
            }
        )
    found = {
        (
            replace(
                own,
                kind=id_.kind,
                slot=id_.slot,
                call=id_.call if id_.kind is Kind.PARAM_GRAD else own.call,
            ),
            rank,
        )
        for own, rank in around
    }
    record = request.again.info.tensors.get(id_)
    if not found and record is not None:
        found = {(id_, shard.rank) for shard in record.shards}
    return frozenset(found)


def _is_whole(own: Collection[Held], request: InsideRequest) -> bool:
    """Whether its layout says that no sum of it is pending."""
    records = (request.again.info.tensors.get(held) for held, _ in own)
    return not any(
        shard.layout.partial_axes
        for record in records
        if record is not None
        for shard in record.shards
    )


def _scale(id_: TensorId, own: Collection[Held], request: InsideRequest) -> float:
    """The known factor of the candidate's values over the reference's."""
    reference = request.reference.info.tensors.get(id_)
    for held, _ in sorted(own, key=str):
        record = request.again.info.tensors.get(held)
        if held.kind is id_.kind and record is not None and reference is not None:
            return record.shards[0].scale / reference.shards[0].scale
    return 1.0


def _tolerance(tensor: TensorReport | None) -> float:
    """Up to which difference operations agree.

    That of the module's output is one of sums and means over what is inside; where the
    module is far off, what is inside may differ by some more and agree.
    """
    if tensor is None or tensor.tolerance is None:
        return 1e-5
    margin = tensor.margin or 1.0
    slack = min(_MAX_SLACK, math.sqrt(max(margin, 1.0)))
    return tensor.tolerance * slack
