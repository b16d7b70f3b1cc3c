"""What a run itself recorded of its gradients, whatever of it can be compared.

Gradients of micro-batches that the runs cut otherwise are set aside: no verdict on them
says that the run has them. That a gradient is missing is only said of what is missing
here, too.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from ttrace.compare.calls.call_counts import Place
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.frozen_parameters import Frozen, frozen_in
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo

Parameter = tuple[int, str, str | None]
"""Step, module and slot of a parameter."""

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_OF_STEPS = frozenset({Kind.LEARNING_RATE, Kind.UPDATED_PARAM})

_WITHOUT_SCRIPT = frozenset({"jax"})
"""Frameworks in which no optimizer is watched: what a script names is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnGradients:
    """Gradients that a run recorded or skipped, before any of it was regrouped.

    Attributes:
        made: Parameters that a backward made a gradient of, which was recorded.
        hidden: Those of which it may have made one, which was skipped.
        given: Parameters of which an optimizer was given one, recorded or skipped.
        seen: Parameters of which any gradient was recorded or skipped.
        of_modules: Ids of the gradients of inputs and outputs, without micro-batch.
        updated: Parameters whose update was recorded.
        stepped: Steps in which an optimizer that is watched was seen to step.
        wants_main_grad: What optimizers are given was asked for.
        evaluations: Step and number of each call of an optimizer's closure.
        frozen: Parameters that need no gradient, as far as the run says so.
    """

    made: frozenset[Parameter] = frozenset()
    hidden: frozenset[Parameter] = frozenset()
    given: frozenset[Parameter] = frozenset()
    seen: frozenset[Parameter] = frozenset()
    of_modules: frozenset[TensorId] = frozenset()
    updated: frozenset[Parameter] = frozenset()
    stepped: frozenset[int] = frozenset()
    wants_main_grad: bool = True
    evaluations: frozenset[tuple[int, int]] = frozenset()
    frozen: Frozen = frozenset()

    def has_backward(self, step: int) -> bool:
        """Whether any gradient of a step was recorded or skipped."""
        return any(found == step for found, _, _ in self.seen) or any(
            id_.step == step for id_ in self.of_modules
        )

    def has_any_of(self, step: int) -> bool:
        """Whether a gradient of a parameter was recorded or skipped in a step."""
        return any(found == step for found, _, _ in self.seen)

    def lacks_evaluation(self, gradient: TensorId) -> bool:
        """Whether an optimizer did not call its closure as often in that step."""
        return (
            gradient.kind is Kind.MAIN_GRAD
            and gradient.call > 0
            and (gradient.step, gradient.call) not in self.evaluations
        )

    def says_what_is_made(self, gradient: TensorId) -> bool:
        """Whether a backward that makes a gradient of a parameter would be known."""
        is_asked = any(step == gradient.step for step, _, _ in self.made)
        return is_asked and parameter_of(gradient) not in self.hidden

    def reaches(self, step: int, module: str, *, call: int | None = None) -> bool:
        """Whether gradients of a module's outputs were recorded, of a call or any."""
        return any(
            id_.step == step
            and id_.module == module
            and id_.kind is Kind.GRAD_OUTPUT
            and call in (None, id_.call)
            for id_ in self.of_modules
        )

    def outputs_with(self, gradient: TensorId) -> list[str]:
        """Outputs that have a gradient, of the call that the gradient's output is of.

        In any micro-batch of the step; sorted.
        """
        call = replace(gradient, microbatch=None, slot=None)
        return sorted(
            id_.slot
            for id_ in self.of_modules
            if id_.slot is not None and replace(id_, slot=None) == call
        )

    def calls_with(self, gradient: TensorId) -> frozenset[int]:
        """Calls of a module that have the gradient, in any micro-batch of the step."""
        name = replace(gradient, microbatch=None, call=0)
        return frozenset(
            id_.call for id_ in self.of_modules if replace(id_, call=0) == name
        )


def own_gradients(
    info: TraceInfo,
    *,
    shown: TraceInfo | None = None,
    matched: Collection[Place] = (),
) -> OwnGradients:
    """Reads off what a run recorded.

    Args:
        info: The run, under the names that it is compared by.
        shown: The run as it is compared; None where that is no other one.
        matched: Where it has the calls of the other run there.
    """
    modules = {(step, module) for step, _, module in matched}
    recorded = [id_ for id_ in info.tensors if id_.kind in GRADIENTS]
    skipped = [id_ for id_ in info.skipped if id_.kind in GRADIENTS]
    is_watched = info.ranks[0].framework not in _WITHOUT_SCRIPT
    capture = CaptureFilter.from_json(dict(info.ranks[0].capture))
    return OwnGradients(
        made=frozenset(
            parameter_of(id_) for id_ in recorded if id_.kind is Kind.PARAM_GRAD
        ),
        hidden=frozenset(
            parameter_of(id_) for id_ in skipped if id_.kind is Kind.PARAM_GRAD
        ),
        given=frozenset(
            parameter_of(id_)
            for id_ in (*recorded, *skipped)
            if id_.kind is Kind.MAIN_GRAD
        ),
        seen=frozenset(
            parameter_of(id_)
            for id_ in (*recorded, *skipped)
            if id_.kind in _OF_PARAMETERS
        ),
        of_modules=frozenset(
            replace(id_, microbatch=None)
            for ids, are_matched in ((recorded, False), ((shown or info).tensors, True))
            for id_ in ids
            if id_.kind in ACTIVATIONS & GRADIENTS
            and ((id_.step, id_.module) in modules) == are_matched
        ),
        updated=frozenset(
            parameter_of(id_) for id_ in info.tensors if id_.kind is Kind.UPDATED_PARAM
        ),
        stepped=frozenset(
            id_.step for id_ in info.tensors if is_watched and id_.kind in _OF_STEPS
        ),
        wants_main_grad=capture.wants_kind(Kind.MAIN_GRAD),
        evaluations=frozenset(
            (id_.step, id_.call)
            for id_ in (*recorded, *skipped)
            if id_.kind is Kind.MAIN_GRAD
        ),
        frozen=frozen_in(rank.settings for rank in info.ranks),
    )


def parameter_of(tensor_id: TensorId) -> Parameter:
    """The parameter that a gradient or an update is of, in its step."""
    return tensor_id.step, tensor_id.module, tensor_id.slot
