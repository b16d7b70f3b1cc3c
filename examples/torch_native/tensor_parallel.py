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
        "attention.wq": ColwiseParallel(),
        "attention.wk": ColwiseParallel(),
        "attention.wv": ColwiseParallel(),
        "attention.wo": RowwiseParallel(output_layouts=between),
        "feed_forward.w1": ColwiseParallel(),
        "feed_forward.w2": RowwiseParallel(output_layouts=between),
        "feed_forward.w3": ColwiseParallel(),
    }
    if is_sequence:
        for norm, module in (
            ("attention_norm", "attention"),
            ("ffn_norm", "feed_forward"),
        ):
            plan[norm] = SequenceParallel()
            plan[module] = PrepareModuleInput(
                input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
            )
    for layer in model.layers.values():
        parallelize_module(layer, mesh, plan)
    outside: dict[str, ParallelStyle] = {
        "tok_embeddings": RowwiseParallel(
            input_layouts=Replicate(), output_layouts=between
        ),
        "output": ColwiseParallel(
            input_layouts=between,
            output_layouts=Shard(-1) if is_loss_parallel else Replicate(),
            use_local_output=not is_loss_parallel,
        ),
    }
    if is_sequence:
        outside["norm"] = SequenceParallel()
    parallelize_module(model, mesh, _of_stage(model, outside))


def _of_stage(
    model: nn.Module, plan: dict[str, ParallelStyle]
) -> dict[str, ParallelStyle]:
    """What a stage of a pipeline has of it."""
    return {name: style for name, style in plan.items() if getattr(model, name, None)}
