"""Updated parameters of a run that gathers them while the next forward runs.

With ``overlap_param_gather`` a rank has only its own part of the updated parameters
when the optimizer's step ends. Each group of buckets is gathered when the next forward
first needs it, or when the script forces it. That is when its parameters are recorded,
as tensors of the step that updated them. What is never gathered (after the last step)
is recorded as the part that each rank updated. No communication is added.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ttrace.frontends.megatron_parts.optimizer_shards import OptimizerShards
from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.step_records import ParameterWriter, StepRecords
from ttrace.ir.kinds import Kind


def gathers_in_forward(model_chunks: Sequence[torch.nn.Module]) -> bool:
    """Whether updated parameters are gathered only in the next forward."""
    configs = (getattr(chunk, "ddp_config", None) for chunk in model_chunks)
    return any(
        getattr(config, "use_distributed_optimizer", False)
        and getattr(config, "overlap_param_gather", False)
        for config in configs
    )


class ParameterGathers:
    """Records ``updated_param`` whenever a group of buckets has been gathered.

    Args:
        model_chunks: Wrapped in Megatron's DistributedDataParallel.
        optimizer_shards: What this rank's optimizer updates.
        records: Takes the records.
    """

    def __init__(
        self,
        model_chunks: Sequence[Any],
        optimizer_shards: OptimizerShards,
        records: StepRecords,
    ):
        self._groups = [
            group
            for chunk in model_chunks
            for group in chunk.bucket_groups + chunk.expert_parallel_bucket_groups
        ]
        self._optimizer_shards = optimizer_shards
        self._records = records
        self._pending: dict[torch.Tensor, NamedParameter] = {}
        self._write: ParameterWriter | None = None

    def begin(self) -> None:
        """The optimizer has updated this rank's part of every parameter."""
        self._write = self._records.parameter_writer(Kind.UPDATED_PARAM)
        if self._write is not None:
            self._pending = {
                named.parameter: named for named in self._records.named_parameters()
            }
            for named in list(self._pending.values()):
                if not named.parameter.requires_grad:  # in no bucket, never gathered
                    self._record(named, named.parameter)

    def flush(self) -> None:
        """Records this rank's own part of whatever was not gathered."""
        for named in list(self._pending.values()):
            self._record(named, self._optimizer_shards.updated_part(named))

    @contextlib.contextmanager
    def observed(self) -> Iterator[None]:
        """Watches every group of buckets while it lasts."""
        names = ("start_param_sync", "finish_param_sync")
        for group in self._groups:
            for name in names:
                setattr(group, name, self._observing(group, getattr(group, name)))
        try:
            yield
        finally:
            for group in self._groups:
                for name in names:
                    delattr(group, name)  # uncovers the method of the class

    def _observing(self, group: Any, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def observed(*args, **kwargs):
            result = method(*args, **kwargs)
            if group.param_gather_dispatched and group.param_gather_handle is None:
                for parameter in group.params:
                    named = self._pending.get(parameter)
                    if named is not None:
                        self._record(named, parameter)
            return result

        return observed

    def _record(self, named: NamedParameter, value: Any) -> None:
        del self._pending[named.parameter]
        if value is not None and self._write is not None:
            self._write(named, value)
