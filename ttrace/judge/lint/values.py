"""Values that no tensor should hold: NaN, infinities, nothing but zeros."""

from collections.abc import Callable

from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, NEEDS_AUTOGRAD, Kind
from ttrace.ir.skipped_step import skipped_steps
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import MAX_IDS, Diagnosis, tensors
from ttrace.judge.frontier.flow import Failures, Place
from ttrace.judge.frontier.steps import follow
from ttrace.judge.lint.facts import Facts, RunFacts
from ttrace.judge.reading.values import nonfinite_index
from ttrace.judge.tolerances.setup import is_given
from ttrace.judge.verdicts.finiteness import place_text, where_to_look
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST_ELEMENTS = 8
"""Elements of a tensor that is not zero by chance."""

_OF_PARAMETERS = (Kind.PARAM_GRAD, Kind.MAIN_GRAD)

_MAY_BE_ZERO = frozenset({Kind.BUFFER, Kind.UPDATED_BUFFER, Kind.OPTIMIZER_STATE})

_MASKED = (ACTIVATIONS - GRADIENTS) | {Kind.BUFFER, Kind.UPDATED_BUFFER}
"""Kinds that a mask may fill with infinities."""


def nonfinite(run: RunFacts) -> Diagnosis | None:
    """Where NaN or infinities begin: what they are computed from is finite.

    Not of gradients of a step that the optimizer skipped for them.
    """
    skipped = skipped_steps(run.trace.info)

    def is_wrong(tensor_id: TensorId, facts: Facts) -> bool:
        if tensor_id.kind in NEEDS_AUTOGRAD and tensor_id.step in skipped:
            return False
        is_mask = tensor_id.kind in _MASKED and facts.num_inf < facts.count
        return bool(facts.num_nan or (facts.num_inf and not is_mask))

    places, number = _places(run, is_wrong)
    if not places:
        return None
    first = places[0].verdicts[0].id
    facts = run.tensors[first]
    what = "NaN" if facts.num_nan else "infinity"
    given = ""
    if is_given(first, first.step):
        given = "; nothing was computed before it"
    elif places[0].is_claimed:
        given = "; what it is computed from is finite" + (
            "" if places[0].is_whole else ", as far as recorded"
        )
    number_of = facts.num_nan or facts.num_inf
    index = nonfinite_index(first, run.trace)
    at = place_text(index, number_of, facts.count)
    more = f". {tensors(number - 1)} more have some" if number > 1 else ""
    others = "".join(f"; another place is {p.verdicts[0].id}" for p in places[1:4])
    return Diagnosis(
        code="first_nonfinite",
        sentence=f"the first {what} is in {first}, {number_of} of "
        f"{facts.count} elements{at}{given}{others}: "
        f"{where_to_look(is_given=is_given(first, first.step))}{more}",
        evidence={
            "num_elements": number_of,
            "num_tensors": number,
        },
        tensor_ids=_ids(places),
    )


def all_zero(run: RunFacts) -> Diagnosis | None:
    """Where outputs, or gradients of parameters, become nothing but zeros.

    What is computed from zeros is zero, and so is what a module whose weights are zero
    makes: an adapter that starts so. Modules without parameters may return zeros by
    design, such as masks. A gradient must be zero whenever it was recorded.
    """
    holding = {id_.module for id_ in run.tensors if id_.kind is Kind.PARAM}
    alive = {
        (id_.kind, *_kin(id_))
        for id_, facts in run.tensors.items()
        if id_.kind in _OF_PARAMETERS and not facts.is_zero
    }
    busy = {
        id_.module
        for id_, facts in run.tensors.items()
        if id_.kind is Kind.OUTPUT and facts.count and not facts.is_zero
    }

    def is_wrong(tensor_id: TensorId, facts: Facts) -> bool:
        if tensor_id.kind in _MAY_BE_ZERO or _is_bias(tensor_id):
            return False
        return facts.is_float and facts.is_zero and facts.count >= _LEAST_ELEMENTS

    places, _ = _places(run, is_wrong)
    found = []
    for place in places:
        first = place.verdicts[0].id
        is_output = first.kind is Kind.OUTPUT and first.module in holding
        is_gradient = (
            first.kind in _OF_PARAMETERS
            and (first.kind, *_kin(first)) not in alive
            and first.module in busy
            and run.tensors[first].num_dims > 1
        )
        if place.is_claimed and (is_output or is_gradient):
            found.append(place)
    if not found:
        return None
    first = found[0].verdicts[0].id
    number = sum(sum(place.explained.values()) for place in found)
    return Diagnosis(
        code="all_zero",
        sentence=f"{first} holds nothing but zeros, and what it is computed from does "
        f"not; {tensors(number)} in all: look for a mask that leaves nothing, a factor "
        "of zero, or a buffer that nothing was written to",
        evidence={"num_tensors": number},
        tensor_ids=_ids(found),
    )


def _is_bias(tensor_id: TensorId) -> bool:
    """Whether it is a parameter that may begin with zeros."""
    is_parameter = tensor_id.kind in (Kind.PARAM, Kind.UPDATED_PARAM)
    return is_parameter and (tensor_id.slot or "").endswith("bias")


def _kin(tensor_id: TensorId) -> tuple[str, str]:
    """A parameter, with others of its module that have another number: of experts."""
    return tensor_id.module, (tensor_id.slot or "").rstrip("0123456789")


def _places(
    run: RunFacts, is_wrong: Callable[[TensorId, Facts], bool]
) -> tuple[list[Place], int]:
    """Where something begins along the dataflow, and how many tensors have it."""
    verdicts = [
        TensorVerdict(
            id=id_,
            status=Status.FAILED if is_wrong(id_, facts) else Status.PASSED,
        )
        for id_, facts in run.tensors.items()
    ]
    number = sum(verdict.status is Status.FAILED for verdict in verdicts)
    if not number:
        return [], 0
    failures = Failures(())
    follow(verdicts, failures)
    return failures.places, number


def _ids(places: list[Place]) -> tuple[str, ...]:
    return tuple(str(v.id) for place in places for v in place.verdicts)[:MAX_IDS]
