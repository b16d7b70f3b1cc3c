"""What averages gradients over data-parallel ranks: found on the model, never fitted.

Under DDP and FSDP each rank's backward works on the loss of its own micro-batches, and
the sum of the gradients is divided afterwards. Until then they are larger, by exactly
that divisor, than those of one process that runs all micro-batches.
"""

import gc
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ttrace.errors import LayoutError
from ttrace.frontends.torch_parts.names import is_a

_HOOKS_THAT_AVERAGE = (
    "torch.distributed.algorithms.ddp_comm_hooks.",
    "torch.distributed.algorithms._comm_hooks.",
)
_HOOKS_THAT_DO_NOT = ("noop_hook", "noop_wrapper")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Averaging:
    """One object that averages gradients of a model.

    Attributes:
        name: What users call it.
        ranks: Global ranks that it averages over, in its own order.
        divisor: By what it divides their sum now; scripts may change it. Raises where
            that is not known.
    """

    name: str
    ranks: tuple[int, ...]
    divisor: Callable[[], float]


def find_averaging(*parts: torch.nn.Module) -> tuple[Averaging, ...]:
    """What averages gradients of a model's parts, or of a model that has them.

    DistributedDataParallel is also found where the script gave a module inside.
    """
    modules = [module for part in parts for module in part.modules()]
    return (
        *map(_of_ddp, _ddp_around(parts, modules)),
        *_of_replicate(modules),
        *_of_fully_shard(modules),
        *_of_fsdp1(modules),
    )


def common_divisor(averaging: Iterable[Averaging]) -> float:
    """The factor on gradients before they are averaged; 1 where nothing averages.

    Raises:
        LayoutError: Parts of the model are divided by different numbers, or it is not
            known by what.
    """
    divisors = {one.divisor(): one.name for one in averaging}
    if len(divisors) > 1:
        raise LayoutError(
            "parts of the model divide their gradients by different numbers ("
            + " and ".join(f"{divisor:g}" for divisor in sorted(divisors))
            + "), so that no one factor is on the gradients of activations",
            expected="one gradient divide factor for all of them",
            got=" and ".join(f"{divisor:g}" for divisor in sorted(divisors)),
            remedy="call set_gradient_divide_factor on every module that fully_shard "
            "was called on (it does not reach the modules inside)",
        )
    return next(iter(divisors), 1.0)


def _ddp_around(
    parts: Sequence[torch.nn.Module], modules: list[torch.nn.Module]
) -> Iterator[Any]:
    ddp_class = torch.nn.parallel.DistributedDataParallel
    inside = [module for module in modules if isinstance(module, ddp_class)]
    if inside or not _is_distributed():
        yield from inside
        return
    for candidate in gc.get_objects():
        # type(), as isinstance would run code of proxies.
        if not issubclass(type(candidate), ddp_class):
            continue
        if not set(map(id, candidate.module.modules())).isdisjoint(map(id, parts)):
            yield candidate


def _of_ddp(ddp: Any) -> Averaging:
    ranks = tuple(torch.distributed.get_process_group_ranks(ddp.process_group))

    def divisor() -> float:
        for hook, _ in getattr(ddp, "_comm_hooks", ()):
            require_average(hook, "DistributedDataParallel")
        joining = getattr(ddp, "_join_config", None)
        is_joining = joining is not None and joining.enable
        if is_joining and not getattr(ddp, "_divide_by_initial_world_size", True):
            raise LayoutError(
                "join(divide_by_initial_world_size=False) divides gradients by the "
                "number of ranks that still have inputs, which none of them is told",
                expected="a division by the number of all ranks",
                got="divide_by_initial_world_size=False",
                remedy="compare main_grad",
            )
        return float(len(ranks))

    return Averaging(name="DistributedDataParallel", ranks=ranks, divisor=divisor)


def _of_replicate(modules: list[torch.nn.Module]) -> Iterator[Averaging]:
    """Of ``replicate``, whose own DDP exists from the first forward on."""
    loaded = sys.modules.get("torch.distributed._composable.replicate")
    function: Any = getattr(loaded, "replicate", None)
    if function is None:
        return
    for module in modules:
        state = function.state(module)
        if state is None or (state._init_args is None and not state.has_initialized):
            continue
        if state.has_initialized:
            ranks = _of_ddp(state._ddp).ranks
        else:
            mesh = state._init_kwargs.get("device_mesh")
            group = state._init_kwargs.get("process_group")
            group = group if mesh is None else mesh.get_group()
            ranks = tuple(torch.distributed.get_process_group_ranks(group))

        def divisor(state: Any = state, ranks: tuple[int, ...] = ranks) -> float:
            return (
                _of_ddp(state._ddp).divisor() if state.has_initialized else len(ranks)
            )

        yield Averaging(name="replicate", ranks=ranks, divisor=divisor)


def _of_fully_shard(modules: list[torch.nn.Module]) -> Iterator[Averaging]:
    fsdp_class = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if fsdp_class is None:
        return
    for module in modules:
        if not isinstance(module, fsdp_class):
            continue
        unit: Any = module
        state = unit._get_fsdp_state()
        for group in _parameter_groups(state):
            mesh = group.mesh_info.mesh
            ranks = tuple(map(int, mesh.mesh.flatten().tolist()))
            yield Averaging(
                name="fully_shard", ranks=ranks, divisor=_divisor_of(group, ranks)
            )


def _parameter_groups(state: Any) -> list[Any]:
    """Those of a state of fully_shard; some releases of torch have one at most."""
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [state._fsdp_param_group] if state._fsdp_param_group else []
    return list(groups)


def _divisor_of(group: Any, ranks: tuple[int, ...]) -> Callable[[], float]:
    def divisor() -> float:
        factor = getattr(group, "gradient_divide_factor", None)
        return float(len(ranks) if factor is None else factor)

    return divisor


def _of_fsdp1(modules: list[torch.nn.Module]) -> Iterator[Averaging]:
    for module in modules:
        if not is_a(module, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            continue
        wrapper: Any = module
        if getattr(wrapper, "_handle", None) is None:
            continue
        ranks = torch.distributed.get_process_group_ranks(wrapper.process_group)
        between = getattr(wrapper, "_inter_node_pg", None)
        if between is not None and "HYBRID" in wrapper.sharding_strategy.name:
            # Of the other nodes only the counterparts of this rank are known; the
            # division is over all of them.
            size = len(ranks) * between.size()
            if size == torch.distributed.get_world_size():
                ranks = list(range(size))
        factors = (
            wrapper._gradient_predivide_factor,
            wrapper._gradient_postdivide_factor,
        )
        yield Averaging(
            name="FullyShardedDataParallel",
            ranks=tuple(ranks),
            divisor=_fsdp1_divisor(wrapper, math.prod(factors)),
        )


def _fsdp1_divisor(wrapper: Any, product: float) -> Callable[[], float]:
    def divisor() -> float:
        if wrapper._comm_hook is not None:
            require_average(wrapper._comm_hook, "FullyShardedDataParallel")
        return float(product)

    return divisor


def require_average(hook: Any, wrapper: str) -> None:
    """Refuses a communication hook that is not known to average.

    Raises:
        LayoutError: It is none of torch's own, or one that does nothing.
    """
    where, name = getattr(hook, "__module__", ""), getattr(hook, "__name__", str(hook))
    known = where.startswith(_HOOKS_THAT_AVERAGE) and name not in _HOOKS_THAT_DO_NOT
    if not known:
        raise LayoutError(
            f"the communication hook of {wrapper} ({where}.{name}) is not known to "
            "average, so that the factor on gradients before it is not known",
            expected="one of torch.distributed.algorithms, but for noop_hook",
            got=f"{where}.{name}",
            remedy="compare main_grad, or give trace a description with scales",
        )


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
