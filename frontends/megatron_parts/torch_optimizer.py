"""A plain torch optimizer on Megatron's models, in place of Megatron's own.

It holds whole parameters and reads ``parameter.grad``. Megatron's
DistributedDataParallel leaves that empty: it accumulates gradients into ``main_grad``,
for Megatron's optimizers to find. A script that combines the two trains nothing; what
is recorded says so.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from absl import logging

from ttrace.frontends.megatron_parts.optimizer_tap import record_settings
from ttrace.frontends.torch_parts.description import NamedParameter, NoLayout
from ttrace.frontends.torch_parts.step_records import StepRecords
from ttrace.ir.kinds import Kind


@contextlib.contextmanager
def observed_torch_optimizer(
    optimizer: torch.optim.Optimizer, records: StepRecords
) -> Iterator[None]:
    """Records the optimizer's side of every step while it lasts.

    Before the step: ``main_grad`` and ``learning_rate``; after it: ``updated_param``
    and ``optimizer_state``. There is no ``grad_norm``: the optimizer computes none, and
    a rank alone cannot.

    Args:
        optimizer: What the script calls ``step()`` of.
        records: Takes the records.
    """
    optimizer_shards = TorchOptimizerShards(optimizer)

    def before(*_: Any) -> None:
        optimizer_shards.warn_once(records.named_parameters())
        records.parameters(Kind.MAIN_GRAD, optimizer_shards.main_grad)
        record_settings(optimizer, records)

    def after(*_: Any) -> None:
        records.parameters(Kind.UPDATED_PARAM, lambda named: named.parameter)
        records.optimizer_state(optimizer_shards.state)

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class TorchOptimizerShards:
    """What a torch optimizer holds of each parameter.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._has_warned = False

    def main_grad(self, named: NamedParameter) -> torch.Tensor | None:
        """The reduced gradient: where the optimizer looks for it, or where it is."""
        parameter = named.parameter
        if parameter.grad is not None or not parameter.requires_grad:
            return parameter.grad
        return getattr(parameter, "main_grad", None)

    def state(
        self, named: NamedParameter
    ) -> Mapping[str, torch.Tensor | float] | NoLayout:
        """The optimizer's state by name, or why it has none."""
        # Looking a parameter up in the optimizer's defaultdict would add it.
        state = self._optimizer.state.get(named.parameter, {})
        if not state and self._is_starved(named.parameter):
            return NoLayout(reason=self._starvation)
        return {
            name: value
            for name, value in state.items()
            if isinstance(value, torch.Tensor | float | int)
        }

    def warn_once(self, parameters: Iterator[NamedParameter]) -> None:
        """Says in the log of the run if the optimizer is given nothing."""
        if not self._has_warned and any(
            self._is_starved(named.parameter) for named in parameters
        ):
            self._has_warned = True
            logging.warning("ttrace: %s.", self._starvation)

    @property
    def _starvation(self) -> str:
        return (
            f"{type(self._optimizer).__name__} of torch updates nothing: it reads "
            ".grad, but Megatron's DistributedDataParallel keeps gradients in "
            "main_grad, where get_megatron_optimizer()'s optimizers look for them"
        )

    @staticmethod
    def _is_starved(parameter: torch.nn.Parameter) -> bool:
        return (
            parameter.requires_grad
            and parameter.grad is None
            and getattr(parameter, "main_grad", None) is not None
        )
