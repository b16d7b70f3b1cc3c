"""The places where failures begin, out of all tensors that failed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.ir.kinds import Kind
from ttrace.ir.left_out import SAME_CONTENT
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.judge.absences.absences import Absences
from ttrace.judge.absences.extra_gradients import extra_gradients
from ttrace.judge.frontier.first_divergence import FirstDivergence
from ttrace.judge.frontier.flow import Failures, Place
from ttrace.judge.frontier.microbatch import content_of, parameter_key
from ttrace.judge.frontier.steps import follow
from ttrace.judge.verdicts.verdict import Status, TensorVerdict, count_statuses

_MAX_IDS = 5
"""Ids of a place that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """A place whose inputs agree, and whose result does not.

    Attributes:
        id: The first tensor that is wrong there.
        sentence: What it is, and what follows from it.
        share: How much of all that failed follows from it, and of what only one run
            has: ``8 of 14 failed tensors``, ``8 of 14 failed tensors and 2 of 6
            unmatched ones``.
        explains: How many tensors failed by it, itself too, by kind: they are computed
            from it. One that is computed from several places counts at each.
        ids: The first few that are wrong by themselves there, ``id`` first.
        num_own: How many those are.
        inputs_agree: What it is computed from was compared, at least in part, and
            agrees; else it is only the first that failed.
        num_alike: Other modules, or parameters, that are wrong likewise: in other
            layers, or by the same factor.
    """

    id: str
    sentence: str
    share: str
    explains: Mapping[str, int]
    ids: tuple[str, ...]
    num_own: int
    inputs_agree: bool
    num_alike: int = 0


def find_culprits(
    verdicts: Sequence[TensorVerdict],
    absences: Absences,
    first: FirstDivergence | None,
    overwritten: Collection[TensorId] = (),
) -> tuple[Culprit, ...]:
    """Splits failed tensors into those that begin a failure and those that follow.

    Linear in the number of tensors; reads no array.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        absences: What one of the runs does not have.
        first: The first divergence.
        overwritten: What had the reference's values put in its place, once it was
            recorded: no failure goes on from it.

    Returns:
        The places, that of the first divergence first, then in order of the dataflow;
        none where nothing failed.
    """
    lacking = [v.id for v in (*absences.gradients, *extra_gradients(verdicts))]
    lacking += [found.verdicts[0].id for found in absences.not_run]
    named = next((v for v in verdicts if first and str(v.id) == first.id), None)
    failures = _followed(verdicts, lacking, named, overwritten)
    if not failures.places:
        failures = _followed(verdicts, lacking, None, overwritten)
    counts = count_statuses(verdicts)
    places = failures.places
    if named is not None:
        places = sorted(
            places, key=lambda place: not _begin_with(named, place, absences)
        )
    return tuple(
        _culprit(
            place,
            counts,
            _uncompared_inputs(place.verdicts[0].id, verdicts),
        )
        for place in places
    )


def _followed(
    verdicts: Sequence[TensorVerdict],
    lacking: Sequence[TensorId],
    first: TensorVerdict | None,
    overwritten: Collection[TensorId],
) -> Failures:
    failures = Failures(
        lacking,
        None if first is None else str(first.id),
        overwritten,
        first_key=None if first is None else parameter_key(first),
    )
    if any(map(failures.is_failure, verdicts)):
        follow(verdicts, failures)
    return failures


def _begin_with(named: TensorVerdict, place: Place, absences: Absences) -> bool:
    """Puts a tensor first among those of its place; False if it is not of this one.

    One that is a single array with the place's first stands for that: the gradient of
    the model's output is that of its last module's, too. So does that of a frozen
    parameter for one of an activation that is missing by it.
    """
    for index, verdict in enumerate(place.verdicts):
        if verdict.id == named.id:
            place.verdicts.insert(0, place.verdicts.pop(index))
            return True
    first = place.verdicts[0]
    if named in absences.frozen and first in absences.gradients:
        place.verdicts.insert(0, named)
        return True
    content = content_of(named)
    is_same = content is not None and content == content_of(first)
    if is_same and named.id.kind is first.id.kind and named.cause is first.cause:
        place.verdicts[0] = named
        return True
    return False


def _culprit(
    place: Place, counts: Mapping[Status, int], uncompared_inputs: str
) -> Culprit:
    first = place.verdicts[0]
    num_own = len({(v.id.module, v.id.slot) for v in place.verdicts})
    more = f", and {num_own - 1} more like it" if num_own > 1 else ""
    share = _share(place, counts)
    return Culprit(
        id=str(first.id),
        sentence=f"{_name(first.id)}{more}: {first.reason}{_inputs(place)}"
        f"{uncompared_inputs}; explains {share}",
        share=share,
        explains={kind.value: number for kind, number in place.explained.items()},
        ids=tuple(str(v.id) for v in place.verdicts[:_MAX_IDS]),
        num_own=len(place.verdicts),
        inputs_agree=place.is_claimed and not _is_given(first.id),
        num_alike=num_own - 1,
    )


def _uncompared_inputs(id_: TensorId, verdicts: Sequence[TensorVerdict]) -> str:
    """That a module may be given other values, where none of its inputs was compared.

    Empty where some were, or hold what a compared tensor holds, or none was recorded.
    """
    if id_.kind is not Kind.OUTPUT:
        return ""
    place = replace(id_, kind=Kind.INPUT, slot=None)
    inputs = [
        verdict
        for verdict in verdicts
        if verdict.id.kind is Kind.INPUT
        and verdict.id.module == id_.module
        and replace(verdict.id, slot=None) == place
    ]
    if not inputs or any(
        verdict.status is not Status.SKIPPED or SAME_CONTENT in verdict.reason
        for verdict in inputs
    ):
        return ""
    return (
        f"; none of its inputs was compared ({inputs[0].reason}), so that what it is "
        "given may be wrong: look at what computes that, too"
    )


def _share(place: Place, counts: Mapping[Status, int]) -> str:
    """What a place explains, of the numbers that the report gives."""
    num_failed = sum(place.explained.values()) - place.num_lacking
    failed, unmatched = counts[Status.FAILED], counts[Status.UNMATCHED]
    if not place.num_lacking:
        return _of_all(num_failed, failed, "failed tensor")
    if not num_failed:
        return _of_all(place.num_lacking, unmatched, "unmatched tensor")
    return (
        f"{_of_all(num_failed, failed, 'failed tensor')} and "
        f"{_of_all(place.num_lacking, unmatched, 'unmatched one')}"
    )


def _of_all(number: int, total: int, noun: str) -> str:
    if total == 1:
        return f"the only {noun}"
    of_all = f"all {total}" if number == total else f"{number} of {total}"
    return f"{of_all} {noun}s"


def _name(tensor_id: TensorId) -> str:
    place = f"step {tensor_id.step}"
    if tensor_id.microbatch is not None:
        place += f", micro-batch {tensor_id.microbatch}"
    slot = "" if tensor_id.slot is None else f" {tensor_id.slot}"
    call = f", call {tensor_id.call}" if tensor_id.call else ""
    again = ", recomputed" if tensor_id.pass_ is Pass.RECOMPUTE else ""
    return f"{tensor_id.kind}{slot} of {tensor_id.module} ({place}{call}{again})"


def _is_given(tensor_id: TensorId) -> bool:
    """Whether nothing is upstream of it: a run is given it."""
    return tensor_id.kind in (Kind.PARAM, Kind.BUFFER, Kind.LEARNING_RATE) or (
        tensor_id.kind is Kind.INPUT and tensor_id.module == ROOT_MODULE
    )


_COMPUTED_FROM = {
    Kind.INPUT: "all before it in the module around",
    Kind.OUTPUT: "inputs, parameters and inner modules",
    Kind.LOSS: "the forward before it",
    Kind.GRAD_OUTPUT: "all before it in forward and backward",
    Kind.GRAD_INPUT: "the module's forward and the gradients of its outputs",
    Kind.PARAM_GRAD: "the module's forward and the gradients of its outputs",
    Kind.MAIN_GRAD: "the gradients that backward made of it",
    Kind.GRAD_NORM: "the gradients",
    Kind.CLIPPED_GRAD: "the gradient and the norm of all",
    Kind.OPTIMIZER_STATE: "the gradient and the state before",
    Kind.UPDATED_PARAM: "gradient, state and learning rate",
    Kind.UPDATED_BUFFER: "the module's forward and the buffer before",
}


def _inputs(place: Place) -> str:
    """That what it is computed from agrees, in words; empty where that is not known."""
    first = place.verdicts[0].id
    if not place.is_claimed or _is_given(first) or first.kind not in _COMPUTED_FROM:
        return ""
    words = _COMPUTED_FROM[first.kind]
    if not place.is_whole:
        return f"; what was compared of {words} agrees"
    is_one = words.startswith("all") or first.kind is Kind.LOSS
    return f"; {words} agree{'s' * is_one}"
