"""Tensor parallelism of the Llama, with torch's own styles."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from ttrace.examples.torch_native.llama import Llama


def parallelize(
    model: Llama, mesh: DeviceMesh, *, is_sequence: bool, is_loss_parallel: bool
) -> None:
    """Shards the linears; and with ``is_sequence`` what lies between them, too.

    Args:
        model: The whole model.
        mesh: The ranks that share it.
        is_sequence: Norms and residuals have a part of the sequence on each rank.
        is_loss_parallel: Each rank keeps the logits of its classes.
    """
    between = Shard(1) if is_sequence else Replicate()
    plan: dict[str, ParallelStyle] = {
        "attention.q": ColwiseParallel(),
        "attention.k": ColwiseParallel(),
        "attention.v": ColwiseParallel(),
        "attention.o": RowwiseParallel(output_layouts=between),
        "mlp.gate": ColwiseParallel(),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(output_layouts=between),
    }
    outside: dict[str, ParallelStyle] = {
        "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
        "head": ColwiseParallel(
            input_layouts=between,
            output_layouts=Shard(-1) if is_loss_parallel else Replicate(),
            use_local_output=not is_loss_parallel,
        ),
    }
    if is_sequence:
        plan["attention_norm"] = plan["mlp_norm"] = SequenceParallel()
        plan["attention"] = _gathered_input(num_others=2)
        plan["mlp"] = _gathered_input(num_others=0)
        outside["norm"] = SequenceParallel()
    for layer in model.layers.values():
        parallelize_module(layer, mesh, plan)
    parallelize_module(model, mesh, _of_stage(model, outside))


def _gathered_input(*, num_others: int) -> PrepareModuleInput:
    """The sequence is gathered for the first input of a module; others are whole."""
    others = (None,) * num_others
    return PrepareModuleInput(
        input_layouts=(Shard(1), *others),
        desired_input_layouts=(Replicate(), *others),
    )


def _of_stage(
    model: nn.Module, plan: dict[str, ParallelStyle]
) -> dict[str, ParallelStyle]:
    """What a stage of a pipeline has of it."""
    return {name: style for name, style in plan.items() if getattr(model, name, None)}
