"""What Megatron's optimizers hold of each parameter on this rank.

A replicated optimizer holds whole parameters. The distributed one (ZeRO-1) cuts every
bucket of the gradient buffer over the data-parallel ranks: what a rank owns of a
parameter is a flat range of it, read from Megatron's own maps. Nothing here
communicates.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import (
    ChainedOptimizer,
    Float16OptimizerWithFloat16Params,
    FP32Optimizer,
)

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.description import FlatPart, NamedParameter, NoLayout

_REPLICATED = (FP32Optimizer, Float16OptimizerWithFloat16Params)

_OPAQUE = {
    "use_precision_aware_optimizer": "the precision-aware Adam of TransformerEngine "
    "keeps its state in an encoding of its own",
    "optimizer_cpu_offload": "the state of an optimizer that is offloaded to the CPU "
    "is on its way between two devices",
}
"""Options of Megatron's optimizer that hide its state, and why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OptimizerShard:
    """What this rank's optimizer updates of one parameter.

    Attributes:
        inner: The torch optimizer.
        updated: The tensor that the torch optimizer is given: the parameter, its copy
            in float32, or this rank's part of either.
        is_copy: It is a copy in float32.
        start: First element of the part, in the flattened parameter; None for all.
    """

    inner: torch.optim.Optimizer
    updated: torch.Tensor
    is_copy: bool
    start: int | None = None

    def part(self, values: torch.Tensor) -> torch.Tensor | FlatPart:
        """What has the shape of ``updated``, with its place in the parameter."""
        if self.start is None:
            return values
        return FlatPart(start=self.start, values=values)

    def part_of(self, whole: torch.Tensor) -> torch.Tensor | FlatPart:
        """The part of a tensor that has the shape of the parameter."""
        if self.start is None:
            return whole
        stop = self.start + self.updated.numel()
        return FlatPart(start=self.start, values=whole.view(-1)[self.start : stop])


class OptimizerShards:
    """The optimizer's side of every parameter of this rank.

    Args:
        optimizer: Megatron's optimizer, built.
        model_chunks: What it trains, wrapped for data parallelism.

    Raises:
        UsageError: The class of the optimizer is not known, or its maps contradict the
            parameters.
    """

    def __init__(self, optimizer: Any, model_chunks: Sequence[torch.nn.Module]):
        names: dict[torch.Tensor, str] = {
            parameter: name
            for chunk in model_chunks
            for name, parameter in chunk.named_parameters()
        }
        self._optimizer_shards: dict[torch.Tensor, _OptimizerShard] = {}
        self._is_cut: set[torch.Tensor] = set()
        self._opaque = next(
            (why for name, why in _OPAQUE.items() if getattr(optimizer.config, name)),
            None,
        )
        for leaf in _leaves(optimizer):
            if isinstance(leaf, DistributedOptimizer):
                _refuse_fsdp(leaf)
                self._is_cut.update(*(buffer.params for buffer in leaf.buffers))
                self._optimizer_shards.update(_owned_parts(leaf, names))
            else:
                self._optimizer_shards.update(_whole_parameters(leaf))
        if self._is_cut:
            _require_buckets(names, self._is_cut)

    def main_grad(
        self, named: NamedParameter
    ) -> torch.Tensor | FlatPart | NoLayout | None:
        """The gradient that the optimizer is given, as far as it is valid here.

        After a reduce-scatter that is the range which this rank owns.
        """
        parameter = named.parameter
        if not parameter.requires_grad:
            return None
        main_grad = getattr(parameter, "main_grad", None)
        if main_grad is None:
            return NoLayout(
                reason="the parameter has no main_grad: the model is not wrapped in "
                "Megatron's DistributedDataParallel"
            )
        if parameter not in self._is_cut:
            return main_grad
        shard = self._optimizer_shards.get(parameter)
        return None if shard is None else shard.part_of(main_grad)

    def updated_part(self, named: NamedParameter) -> torch.Tensor | FlatPart | None:
        """What the optimizer itself updated of a parameter, before any all-gather."""
        shard = self._optimizer_shards.get(named.parameter)
        return None if shard is None else shard.part_of(named.parameter.detach())

    def state(
        self, named: NamedParameter
    ) -> Mapping[str, torch.Tensor | FlatPart | float] | NoLayout | None:
        """The optimizer's state, by name; ``main_param`` is its copy in float32."""
        shard = self._optimizer_shards.get(named.parameter)
        if shard is None:
            return None
        if self._opaque is not None:
            return NoLayout(reason=self._opaque)
        # Looking a parameter up in the optimizer's defaultdict would add it.
        state = dict(shard.inner.state.get(shard.updated, {}))
        if shard.is_copy:
            state["main_param"] = shard.updated
        return {
            name: shard.part(value)
            if isinstance(value, torch.Tensor) and value.dim()
            else value
            for name, value in state.items()
            if isinstance(value, torch.Tensor | float | int)
        }


def _leaves(optimizer: Any) -> Iterator[Any]:
    """The optimizers that a chain consists of, without those that train nothing."""
    # By its exact class: Megatron derives optimizers from it that work differently.
    if type(optimizer) is ChainedOptimizer:
        for link in optimizer.chained_optimizers:
            yield from _leaves(link)
        return
    if not isinstance(optimizer, (*_REPLICATED, DistributedOptimizer)):
        known = (ChainedOptimizer, *_REPLICATED, DistributedOptimizer)
        raise UsageError(
            "this class of optimizer cannot be traced",
            where="megatron_adapter.trace",
            expected=", ".join(cls.__name__ for cls in known),
            got=type(optimizer).__name__,
            remedy="give trace() what get_megatron_optimizer() returns",
        )
    if not optimizer.is_stub_optimizer:
        yield optimizer


def _whole_parameters(leaf: Any) -> Iterator[tuple[torch.Tensor, _OptimizerShard]]:
    copies = {}
    if isinstance(leaf, Float16OptimizerWithFloat16Params):
        groups = zip(leaf.float16_groups, leaf.fp32_from_float16_groups, strict=True)
        copies = {
            copy: parameter
            for parameters, main_params in groups
            for parameter, copy in zip(parameters, main_params, strict=True)
        }
    for group in leaf.optimizer.param_groups:
        for updated in group["params"]:
            yield (
                copies.get(updated, updated),
                _OptimizerShard(
                    inner=leaf.optimizer, updated=updated, is_copy=updated in copies
                ),
            )


def _owned_parts(
    leaf: Any, names: Mapping[torch.Tensor, str]
) -> Iterator[tuple[torch.Tensor, _OptimizerShard]]:
    if leaf.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8:
        copies = leaf.shard_float16_groups  # there are none; the state is opaque
    else:
        copies = leaf.shard_fp32_from_float16_groups
    for is_copy, model_groups, shard_groups in (
        (True, leaf.model_float16_groups, copies),
        (False, leaf.model_fp32_groups, leaf.shard_fp32_groups),
    ):
        parameters = itertools.chain.from_iterable(model_groups)
        parts = itertools.chain.from_iterable(shard_groups)
        for parameter, part in zip(parameters, parts, strict=True):
            ranges = leaf._get_model_param_range_map(parameter)
            _check_range(names[parameter], parameter, part, ranges)
            yield (
                parameter,
                _OptimizerShard(
                    inner=leaf.optimizer,
                    updated=part,
                    is_copy=is_copy,
                    start=ranges["param"].start,
                ),
            )


def _check_range(
    name: str, parameter: torch.Tensor, part: torch.Tensor, ranges: Mapping[str, Any]
) -> None:
    own, in_buffer = ranges["param"], ranges["gbuf_world"]
    sizes = {own.end - own.start, in_buffer.end - in_buffer.start, part.numel()}
    if len(sizes) > 1 or not 0 <= own.start <= own.end <= parameter.numel():
        raise UsageError(
            "the distributed optimizer's range of a parameter contradicts its shape",
            where=name,
            expected=f"one range within the {parameter.numel()} elements of shape "
            f"{list(parameter.shape)}",
            got=f"elements {own.start}..{own.end}, {in_buffer.end - in_buffer.start} "
            f"in the buffer, {part.numel()} updated",
            remedy="build the optimizer from the model chunks as they are now",
        )


def _require_buckets(
    names: Mapping[torch.Tensor, str], in_buckets: set[torch.Tensor]
) -> None:
    outside = [
        name
        for parameter, name in names.items()
        if parameter.requires_grad and parameter not in in_buckets
    ]
    if outside:
        raise UsageError(
            "a parameter lies in no bucket of the distributed optimizer, so that its "
            "gradient is never reduced",
            where=", ".join(outside[:3]) + (", ..." if len(outside) > 3 else ""),
            expected="every parameter with requires_grad in a bucket",
            got=f"{len(outside)} of {len(names)} outside",
            remedy="wrap the model in DistributedDataParallel and build the optimizer "
            "after all parameters exist and are marked",
        )


def _refuse_fsdp(leaf: Any) -> None:
    if leaf.ddp_config.use_megatron_fsdp:
        raise UsageError(
            "Megatron-FSDP cannot be traced yet",
            where="megatron_adapter.trace",
            expected="use_megatron_fsdp=False",
            got="use_megatron_fsdp=True",
            remedy="trace the run with the distributed optimizer instead",
        )
