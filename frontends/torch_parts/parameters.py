"""The hooks on parameters: what each micro-batch's backward adds to their gradients."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.arrays import array_of, tensor_of, unobserved
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.fully_sharded import (
    REASON,
    HiddenParameter,
    UnshardedHooks,
)
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import LocalTensor, RecordedElsewhere
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.faults import reason_of


@dataclass(slots=True, kw_only=True, eq=False)
class _Sum:
    """What a micro-batch has added to a parameter's gradient so far.

    Attributes:
        array: The sum; None where it cannot be recorded.
        layout: Of the sum.
        loss_scale: What the loss was multiplied by whose gradient it is.
        reason: Why it cannot be recorded.
    """

    array: np.ndarray | None = None
    layout: ShardLayout | None = None
    loss_scale: float = 1.0
    reason: str = ""


class ParameterGradients:
    """Collects ``param_grad``: one record per parameter and micro-batch.

    Several increments of one micro-batch are added up: a reentrant checkpoint runs
    backward in parts, and a script may call backward for several losses. The sum is
    recorded when the next micro-batch's backward, or the end of the step, shows that it
    is complete. A parameter that got no gradient has no record.

    Args:
        parameters: Those to observe.
        capture: Shared by the session's hooks.
        hidden: Those of them that are other objects while the model runs; skipped in
            every micro-batch that was differentiated, where these were not found.
    """

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        capture: Capture,
        *,
        hidden: Iterable[HiddenParameter] = (),
    ):
        self._hidden = list(hidden)
        is_hidden = {_place(one.named) for one in self._hidden}
        visible = [
            named
            for named in parameters
            if named.parameter.requires_grad and _place(named) not in is_hidden
        ]
        self._num_visible = len(visible)
        self._parameters = [*visible, *(one.named for one in self._hidden)]
        self._capture = capture
        self._unsharded = UnshardedHooks(
            self._hidden, lambda index, grad: self._add(self._num_visible + index, grad)
        )
        self._handles: list[RemovableHandle] = []
        self._is_attached = False
        self._microbatch = 0
        self._sums: dict[int, _Sum] = {}
        self._seen: set[TensorId] = set()

    def attach(self) -> None:
        """Puts the hooks on the parameters; attaching twice does nothing."""
        if not self._is_attached:
            self._is_attached = True
            self._handles = [
                named.parameter.register_hook(functools.partial(self._add, index))
                for index, named in enumerate(self._parameters[: self._num_visible])
            ]
            self._unsharded.attach()

    def detach(self) -> None:
        """Takes the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._unsharded.detach()
        self._is_attached = False
        self._sums.clear()
        self._seen.clear()

    def flush(self) -> None:
        """Records the sums so far."""
        recorder = self._capture.recorder
        for index, sum_ in self._sums.items():
            id_ = self._id(self._parameters[index], self._microbatch)
            if recorder is None:
                continue
            if sum_.array is None or sum_.layout is None:
                recorder.skip(id_, sum_.reason)
            else:
                recorder.array(id_, sum_.array, sum_.layout, loss_scale=sum_.loss_scale)
            if self._hidden:
                self._seen.add(id_)
        self._sums.clear()

    def end_step(self) -> None:
        """Records the sums so far, and skips what hooks could not see in the step."""
        self.flush()
        if self._hidden:
            for microbatch in self._capture.calls.differentiated_microbatches():
                for index, hidden in enumerate(self._hidden):
                    id_ = self._id(hidden.named, microbatch)
                    # One that was found and has none is used by no loss.
                    if id_ not in self._seen and not self._unsharded.is_found(index):
                        self._capture.skip(id_, REASON)
            self._seen.clear()

    @guarded("record what a backward pass adds to a gradient")
    def _add(self, index: int, gradient: torch.Tensor) -> None:
        microbatch = self._capture.calls.backward_microbatch
        recorder = self._capture.recorder_of(microbatch)
        if recorder is None or self._capture.is_paused:
            return
        if not self._capture.counts_calls:
            return
        if microbatch != self._microbatch:
            self.flush()
            self._microbatch = microbatch
        sum_ = self._sums.setdefault(index, _Sum())
        try:
            self._add_to(sum_, self._parameters[index], gradient, recorder)
        except Exception as error:
            sum_.array, sum_.reason = None, reason_of(error, "copy it")

    def _add_to(
        self,
        sum_: _Sum,
        named: NamedParameter,
        gradient: torch.Tensor,
        recorder: TensorRecorder,
    ) -> None:
        """Adds an increment; a sum that has a reason not to be recorded keeps it."""
        if sum_.reason:
            return
        id_ = self._id(named, self._microbatch)
        answer = recorder.describe_parameter(id_, named, gradient)
        if isinstance(answer, RecordedElsewhere):
            sum_.reason = "the gradient of a parameter cannot be recorded elsewhere"
            return
        reason = recorder.refusal(answer)
        if reason is not None:
            sum_.array, sum_.reason = None, reason
            return
        assert isinstance(answer, LocalTensor)
        array = array_of(answer.values)
        if sum_.array is None:
            sum_.array, sum_.layout = array, answer.layout
            sum_.loss_scale = recorder.loss_scale
        elif sum_.layout != answer.layout:
            sum_.array = None
            sum_.reason = "backward adds to it in several parts of different layouts"
        else:
            with unobserved():
                added = tensor_of(array)
                if recorder.loss_scale != sum_.loss_scale:  # of another scaler
                    added = added * (sum_.loss_scale / recorder.loss_scale)
                total = tensor_of(sum_.array) + added
                sum_.array = array_of(total)

    def _id(self, named: NamedParameter, microbatch: int) -> TensorId:
        return TensorId(
            step=self._capture.step,
            microbatch=microbatch,
            module=named.module,
            kind=Kind.PARAM_GRAD,
            slot=named.slot,
        )


def _place(named: NamedParameter) -> tuple[str, str]:
    return named.module, named.slot
