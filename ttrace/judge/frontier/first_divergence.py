"""Where two runs part first: the tensor, its module, the phase of the step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttrace.ir.kinds import ACTIVATIONS, KINDS, Kind, Phase
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.judge.absences.absences import Absences
from ttrace.judge.absences.extra_gradients import extra_gradients
from ttrace.judge.absences.modules_not_run import NotRun
from ttrace.judge.verdicts.initial_replicas import of_candidate
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

SETUP_PHASE = "set-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDivergence:
    """The first tensor, in order of the dataflow, that failed or lacks its gradient.

    Where there is none, the first one that is unmatched; also where the failure is the
    norm of all gradients, of which one run lacks some.

    Attributes:
        id: Its text form.
        module: The module (or the parameter's owner).
        kind: What the tensor is.
        phase: ``set-up``, ``forward``, ``backward``, ``optimizer``, or ``any`` for what
            occurs in several (single ops, collectives).
        sentence: The same in words, with figures.
    """

    id: str
    module: str
    kind: str
    phase: str
    sentence: str


def find_first_divergence(
    verdicts: Sequence[TensorVerdict], absences: Absences
) -> FirstDivergence | None:
    """The first failure in order of the dataflow; the first unmatched tensor if none.

    A gradient that does not reach the candidate is a failure where it is missing, and
    so is one of a parameter that only the candidate trains. So is what a module is
    given that only one run runs.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        absences: What one of the runs does not have.
    """
    left_out = {found.verdicts[0].id: found for found in absences.not_run}
    one_sided = [*absences.gradients, *extra_gradients(verdicts)]
    ids = {verdict.id for verdict in one_sided} | set(left_out)
    failures = [v for v in verdicts if v.status is Status.FAILED or v.id in ids]
    failures = _written_last(failures)
    if failures:
        first = _loss_before(_first_of_backward(failures, verdicts), verdicts)
        first = _state_before(first, failures)
        first = _frozen_before(first, absences)
        if first.id in left_out:
            found = left_out[first.id]
            if first.status is Status.SKIPPED:  # by a map, for want of a counterpart
                first = replace(first, reason=f"only in the {found.ran_in}")
            return divergence_of(first, _not_run(found))
        if first in of_candidate(verdicts):
            return replace(divergence_of(first), phase=SETUP_PHASE)
        lacking = _one_sided_gradient(first, verdicts)
        if lacking is not None:
            return divergence_of(lacking)
        return divergence_of(first, _doubt(first, verdicts))
    for verdict in verdicts:
        if verdict.status is Status.UNMATCHED:
            return divergence_of(verdict)
    return None


def _written_last(failures: Sequence[TensorVerdict]) -> list[TensorVerdict]:
    """What a script writes to parameters, behind all else of the first failed step.

    A run that does not write is shown with what it had of them before.
    """
    step = min((verdict.id.step for verdict in failures), default=0)

    def is_before(verdict: TensorVerdict) -> bool:
        return verdict.id.step == step and verdict.id.kind is not Kind.WRITTEN_PARAM

    before = [verdict for verdict in failures if is_before(verdict)]
    return [*before, *(verdict for verdict in failures if not is_before(verdict))]


def _first_of_backward(
    failures: Sequence[TensorVerdict], verdicts: Sequence[TensorVerdict]
) -> TensorVerdict:
    """The first failure; of gradients without their backward, that made first there.

    Frontends record ``main_grad`` in the order of the parameters. The backward makes
    the gradient of what is used last first, and an error goes on from there. Where it
    was compared itself, it shows the place.
    """
    first = failures[0]
    step = first.id.step
    if first.id.kind is not Kind.MAIN_GRAD or any(
        KINDS[v.id.kind].phase is Phase.BACKWARD and v.id.step == step and v.result
        for v in verdicts
    ):
        return first
    of_step = [v for v in failures if v.id.kind is Kind.MAIN_GRAD and v.id.step == step]
    called = [
        v.id.module for v in verdicts if v.id.kind is Kind.OUTPUT and v.id.step == step
    ]
    order = {module: index for index, module in enumerate(called)}
    if all(verdict.id.module in order for verdict in of_step):
        return max(of_step, key=lambda verdict: order[verdict.id.module])
    return of_step[-1]


def _loss_before(
    first: TensorVerdict, verdicts: Sequence[TensorVerdict]
) -> TensorVerdict:
    """The loss, where it failed before the backward that it leads to.

    A script may give its loss when its micro-batch is over. Behind another forward of
    the micro-batch, which has a backward of its own, it is the loss of that one, such
    as the second of a GAN's.
    """
    if KINDS[first.id.kind].phase is not Phase.BACKWARD:
        return first
    around = [
        verdict
        for verdict in verdicts
        if verdict.id.step == first.id.step
        and first.id.microbatch in (None, verdict.id.microbatch)
    ]
    place = next((i for i, verdict in enumerate(around) if verdict is first), 0)
    trained = {_call(v.id) for v in around[place:] if v.id.kind is Kind.GRAD_OUTPUT}
    for index, verdict in enumerate(around):
        if verdict.id.kind is Kind.LOSS and verdict.status is Status.FAILED:
            return verdict
        is_forward = verdict.id.kind is Kind.OUTPUT and (
            verdict.id.pass_ is Pass.FORWARD
        )
        if index > place and is_forward and _call(verdict.id) in trained:
            return first
    return first


def _call(id_: TensorId) -> tuple[int | None, str, int]:
    return id_.microbatch, id_.module, id_.call


def _state_before(
    first: TensorVerdict, failures: Sequence[TensorVerdict]
) -> TensorVerdict:
    """What an optimizer keeps, where it failed before the update that is made of it.

    Frontends of torch record updated parameters first.
    """
    if first.id.kind is not Kind.UPDATED_PARAM:
        return first
    for verdict in failures:
        id_ = verdict.id
        if id_.kind is Kind.OPTIMIZER_STATE and id_.step == first.id.step:
            return verdict
    return first


def _frozen_before(first: TensorVerdict, absences: Absences) -> TensorVerdict:
    """The gradient of a parameter that needs none, where one of an activation is named.

    Nothing in front of the first parameter that is trained has a gradient: that follows
    from what is frozen.
    """
    if first not in absences.gradients or first.id.kind not in ACTIVATIONS:
        return first
    of_step = [v for v in absences.frozen if v.id.step == first.id.step]
    return of_step[0] if of_step else first


def _one_sided_gradient(
    first: TensorVerdict, verdicts: Sequence[TensorVerdict]
) -> TensorVerdict | None:
    """What only one run has of the gradients whose norm is the first failure."""
    if first.id.kind is not Kind.GRAD_NORM:
        return None
    own = [v for v in verdicts if v.present is not None and v.id.step == first.id.step]
    for kind in (Kind.PARAM, Kind.MAIN_GRAD):
        for verdict in own:
            if verdict.id.kind is kind and verdict.status is Status.UNMATCHED:
                return verdict
    return None


def _doubt(first: TensorVerdict, verdicts: Sequence[TensorVerdict]) -> str:
    """What is to be said of a gradient's module, of which nothing else is known.

    An error of an earlier forward shows in the gradients of all later modules.
    """
    module, step = first.id.module, first.id.step
    if first.result is None:
        return ""
    if first.id.kind is Kind.PARAM_GRAD and not any(
        v.result and v.id.step == step and v.id.kind in ACTIVATIONS for v in verdicts
    ):
        return (
            "; no input or output of a module was compared in this step, so that the "
            "cause may lie in any module before it: record them in both runs, under "
            "names that go together"
        )
    if first.id.kind is not Kind.MAIN_GRAD:
        return ""
    if any(
        v.result and v.id.step == step and v.id.module == module
        for v in verdicts
        if KINDS[v.id.kind].per_microbatch
    ):
        return ""
    return (
        f"; nothing of the forward and backward of {module} was compared in this step, "
        "so that the cause may lie in another module"
    )


def _not_run(found: NotRun) -> str:
    if found.is_held:
        return f"; {found.module} does not run in the {found.missing_in}"
    return f"; no rank of the {found.missing_in} has {found.module}"


def divergence_of(verdict: TensorVerdict, doubt: str = "") -> FirstDivergence:
    """The place of a tensor that failed, or is unmatched, in words."""
    tensor_id = verdict.id
    place = f"step {tensor_id.step}"
    if tensor_id.microbatch is not None:
        place += f", micro-batch {tensor_id.microbatch}"
    what = tensor_id.kind.value
    if tensor_id.slot is not None:
        what += f" {tensor_id.slot}"
    if tensor_id.call:
        what += f" (call {tensor_id.call})"
    if tensor_id.pass_ is Pass.RECOMPUTE:
        what += " (recomputed)"
    return FirstDivergence(
        id=str(tensor_id),
        module=tensor_id.module,
        kind=tensor_id.kind.value,
        phase=_phase(verdict),
        sentence=f"{place}: {what} of {tensor_id.module}: {verdict.reason}{doubt}",
    )


def _phase(verdict: TensorVerdict) -> str:
    if verdict.setup:
        return SETUP_PHASE
    if verdict.id.pass_ is Pass.RECOMPUTE:
        return Phase.BACKWARD.value
    phase = KINDS[verdict.id.kind].phase
    if phase is Phase.START:  # a later step starts from what the optimizer made
        return Phase.OPTIMIZER.value
    return phase.value
