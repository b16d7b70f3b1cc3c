"""The hooks on parameters: what each micro-batch's backward adds to their gradients."""

import functools
from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from ttrace.errors import DtypeError
from ttrace.frontends.torch_parts.arrays import array_of, tensor_of, unobserved
from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.modules import Capture
from ttrace.ir.tensor_id import Kind, TensorId


class ParameterGradients:
    """Collects ``param_grad``: one record per parameter and micro-batch.

    Several increments of one micro-batch are added up: a reentrant checkpoint runs
    backward in parts, and a script may call backward for several losses. The sum is
    recorded when the next micro-batch's backward, or the end of the step, shows that it
    is complete. A parameter that got no gradient has no record.

    Args:
        parameters: Those to observe.
        capture: Shared by the session's hooks.
    """

    def __init__(self, parameters: Iterable[NamedParameter], capture: Capture):
        self._parameters = [p for p in parameters if p.parameter.requires_grad]
        self._capture = capture
        self._handles: list[RemovableHandle] = []
        self._microbatch = 0
        self._sums: dict[int, tuple[NamedParameter, np.ndarray]] = {}

    def attach(self) -> None:
        """Puts the hooks on the parameters; attaching twice does nothing."""
        if not self._handles:
            self._handles = [
                named.parameter.register_hook(functools.partial(self._add, index))
                for index, named in enumerate(self._parameters)
            ]

    def detach(self) -> None:
        """Takes the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._sums.clear()

    def flush(self) -> None:
        """Records the sums so far."""
        recorder = self._capture.recorder
        for named, array in self._sums.values():
            if recorder is not None:
                recorder.parameter(self._id(named), named, array)
        self._sums.clear()

    def _add(self, index: int, gradient: torch.Tensor) -> None:
        microbatch = self._capture.calls.backward_microbatch
        recorder = self._capture.recorder_of(microbatch)
        if recorder is None or self._capture.is_paused:
            return
        if microbatch != self._microbatch:
            self.flush()
            self._microbatch = microbatch
        named = self._parameters[index]
        try:
            array = array_of(gradient)
        except DtypeError as error:
            recorder.skip(self._id(named), error.what)
            return
        if index in self._sums:
            with unobserved():
                array = array_of(tensor_of(self._sums[index][1]) + tensor_of(array))
        self._sums[index] = (named, array)

    def _id(self, named: NamedParameter) -> TensorId:
        return TensorId(
            step=self._capture.calls.step,
            microbatch=self._microbatch,
            module=named.module,
            kind=Kind.PARAM_GRAD,
            slot=named.slot,
        )
