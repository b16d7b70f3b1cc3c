"""The model, its wrapping, and what belongs to a stage of the pipeline."""

import argparse

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from ttrace.examples.torch_recipe import cnn
from ttrace.examples.torch_recipe.arguments import Layout
from ttrace.examples.torch_recipe.llama import Llama, LlamaOptions
from ttrace.examples.torch_recipe.place import Place


def build_model(args: argparse.Namespace) -> nn.Module:
    """The whole model; every process makes the same one."""
    torch.manual_seed(args.seed)
    if args.model == "cnn":
        return cnn.Cnn(args.num_layers, recompute=args.recompute)
    model = Llama(
        LlamaOptions(
            num_layers=args.num_layers,
            tied=args.tied,
            lora=args.lora,
            dropout=args.dropout,
            recompute=args.recompute,
        )
    )
    if args.lora:
        freeze(model)
    return model


def freeze(model: nn.Module) -> None:
    """Only adapters are trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".attention." in name and is_adapter(name))


def is_adapter(name: str) -> bool:
    """Says whether a parameter is learned on top of a frozen linear."""
    return name.endswith((".down.weight", ".up.weight")) and ".mlp." not in name


def wrap(model: nn.Module, args: argparse.Namespace, place: Place) -> nn.Module:
    """The model as the layout has it; pipelines are made elsewhere."""
    if place.is_alone:
        return model
    match place.layout:
        case Layout.DDP:
            cnn.synchronize_norms(model)
            return nn.parallel.DistributedDataParallel(model)
        case Layout.FSDP2 | Layout.HSDP:
            shard(model, args, place)
        case Layout.TP:
            assert isinstance(model, Llama)
            parallelize(model, place)
    return model


def shard(model: nn.Module, args: argparse.Namespace, place: Place) -> None:
    """FSDP2: a group per layer, and one of the rest."""
    if place.layout is Layout.HSDP:
        mesh = init_device_mesh(
            "cpu", (place.size // 2, 2), mesh_dim_names=("replicate", "shard")
        )
    else:
        mesh = init_device_mesh("cpu", (place.size,), mesh_dim_names=("dp",))
    options = {"mesh": mesh, "mp_policy": precision_policy(args)}
    blocks = model.get_submodule("layers" if isinstance(model, Llama) else "blocks")
    for block in blocks.children():
        fully_shard(block, **options)
    fully_shard(model, **options)


def precision_policy(args: argparse.Namespace) -> MixedPrecisionPolicy:
    """In what FSDP2 sums gradients."""
    return MixedPrecisionPolicy(reduce_dtype=getattr(torch, args.reduce_dtype))


def parallelize(model: Llama, place: Place) -> None:
    """Tensor and sequence parallelism by the styles of torch."""
    mesh = init_device_mesh("cpu", (place.size,), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, outer_styles())
    for layer in model.layers.values():
        parallelize_module(layer, mesh, layer_styles())


def outer_styles() -> dict[str, ParallelStyle]:
    """Styles of what is around the layers."""
    return {
        "embed": RowwiseParallel(
            input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False
        ),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }


def layer_styles() -> dict[str, ParallelStyle]:
    """Styles of a layer; between its parts ranks have parts of the sequence."""
    back_to_parts = {"output_layouts": Shard(1), "use_local_output": False}
    return {
        "attention_norm": SequenceParallel(),
        "attention": PrepareModuleInput(
            input_layouts=(Shard(1), None, None),
            desired_input_layouts=(Replicate(), None, None),
        ),
        "attention.q": ColwiseParallel(),
        "attention.k": ColwiseParallel(),
        "attention.v": ColwiseParallel(),
        "attention.o": RowwiseParallel(**back_to_parts),
        "mlp_norm": SequenceParallel(),
        "mlp": PrepareModuleInput(
            input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
        ),
        "mlp.gate": ColwiseParallel(),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(**back_to_parts),
    }
