"""Averages of a model's parameters over steps (``torch.optim.swa_utils``): EMA, SWA.

They are no part of the model and of no optimizer; a script names them.
"""

from collections.abc import Mapping

import torch

from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import NoLayout
from ttrace.frontends.torch_parts.names import (
    NamedParameter,
    canonical_modules,
    canonical_parameters,
)
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.kinds import Kind

SLOT = "averaged"
"""Of which name an average is among the state of a parameter: ``weight.averaged``."""


class AveragedParameters:
    """Records the averages of a model's parameters as state of the optimizer.

    The buffers of the averaged model, which may be averages as well, or copies, or left
    as they were, are recorded beside the model's own: ``running_mean.averaged``.

    Args:
        averaged: An ``AveragedModel``, or a copy of the model that the script updates.
        session: Takes the records.
    """

    def __init__(self, averaged: torch.nn.Module, session: CaptureSession):
        is_torchs = isinstance(averaged, torch.optim.swa_utils.AveragedModel)
        self._model = averaged.module if is_torchs else averaged
        self._session = session

    @guarded("record averaged parameters")
    def record(self) -> None:
        """Records them as they are now."""
        found = {
            (named.module, named.slot): named.parameter
            for named in canonical_parameters(self._model)
        }

        def state(named: NamedParameter) -> Mapping[str, torch.Tensor] | NoLayout:
            average = found.get((named.module, named.slot))
            if average is None:
                return NoLayout(
                    reason="the averaged model has no parameter of its name, which is "
                    "that of the model without its wrappers"
                )
            return {SLOT: average}

        self._session.records.optimizer_state(state)
        modules = {
            clean_name(path): module for path, module in canonical_modules(self._model)
        }
        self._session.records.buffers(Kind.UPDATED_BUFFER, modules, suffix=f".{SLOT}")
