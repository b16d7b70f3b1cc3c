"""Modules and parameters with Megatron's class names, and meshes: no process runs."""

import torch
from torch import nn

from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.meshes import MegatronMeshes
from ttrace.frontends.megatron_parts.names import (
    CanonicalModule,
    OwnedParameter,
)
from ttrace.frontends.megatron_parts.rule_table import RULES
from ttrace.frontends.megatron_parts.rules import Rule, Subject, activation_layout
from ttrace.frontends.megatron_parts.sharding import (
    parameter_layout,
)
from ttrace.frontends.torch_parts.description import NamedParameter, NoLayout
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout


def class_named(
    name: str, base: type[nn.Module] = nn.Module, **members: object
) -> type[nn.Module]:
    return type(name, (base,), members)


ColumnParallelLinear = class_named("ColumnParallelLinear")
RowParallelLinear = class_named("RowParallelLinear")
Router = class_named("TopKRouter", class_named("Router"))

Block = class_named("TransformerBlock")
Layer = class_named("TransformerLayer")
Attention = class_named("SelfAttention", class_named("Attention"))
Latent = class_named(
    "MLASelfAttention", class_named("MultiLatentAttention", class_named("Attention"))
)
Prediction = class_named("MultiTokenPredictionLayer")
MoELayer = class_named("MoELayer")
Indexer = class_named("DSAIndexer")
DeltaNet = class_named(
    "GatedDeltaNet", qk_dim=4, v_dim=8, num_value_heads=2, num_key_heads=2
)
"""What norms and linears are parts of; the sizes are those of the whole model."""


def meshes(*, tp=1, dp=1, cp=1, pp=1, ep=1, etp=None, tp_rank=0) -> MegatronMeshes:
    """The meshes of rank ``tp_rank``, of which all other coordinates are 0."""
    etp = tp if etp is None else etp
    edp = tp * dp * cp // (ep * etp)
    dense = {"pp": pp, "dp": dp, "cp": cp, "tp": tp}
    expert = {"pp": pp, "edp": edp, "ep": ep, "etp": etp}
    return MegatronMeshes(
        dense=Mesh(
            name="dense", sizes=dense, coords={**dict.fromkeys(dense, 0), "tp": tp_rank}
        ),
        expert=Mesh(
            name="expert",
            sizes=expert,
            coords={
                **dict.fromkeys(expert, 0),
                "etp": tp_rank % etp,
                "ep": tp_rank // etp % ep,
                "edp": tp_rank // (etp * ep),
            },
        ),
    )


def context(*, sp=False, **sizes) -> ShardingContext:
    more = {
        name: sizes.pop(name)
        for name in (
            "gated_linear_unit",
            "num_query_groups",
            "vocab_size",
            "padded_vocab_size",
            "copied_modules",
        )
        if name in sizes
    }
    return ShardingContext(
        meshes=meshes(**sizes),
        sequence_parallel=sp,
        **{"num_query_groups": 4, **more},
    )


def owned(
    owner: nn.Module,
    shape: tuple[int, ...],
    path: str = "decoder.layers.0.mlp.linear_fc1",
    *,
    slot: str = "weight",
    dim: int | None = None,
    in_experts: bool = False,
    parent: nn.Module | None = None,
    **attributes,
) -> OwnedParameter:
    """A parameter; ``dim`` is where Megatron says that it is sharded."""
    parameter = nn.Parameter(torch.zeros(shape))
    if dim is not None:
        attributes |= {"tensor_model_parallel": True, "partition_dim": dim}
    for name, value in attributes.items():
        setattr(parameter, name, value)
    return OwnedParameter(
        named=NamedParameter(module=path, slot=slot, parameter=parameter),
        owner=CanonicalModule(
            path=path, module=owner, in_experts=in_experts, parent=parent
        ),
    )


def layout_of(
    parameter: OwnedParameter, kind: Kind, run: ShardingContext
) -> ShardLayout:
    layout = parameter_layout(parameter, kind, run)
    assert isinstance(layout, ShardLayout), layout
    return layout


def rows(layout: ShardLayout) -> list[tuple[int, int]]:
    """Start and stop of the blocks along dim 0."""
    return [(b.region.start[0], b.region.stop[0]) for b in layout.blocks]


def activation(
    module: nn.Module,
    kind: Kind,
    slot: str,
    shape: tuple[int, ...],
    run: ShardingContext,
    *,
    path: str = "decoder.layers.0.module",
    parent: nn.Module | None = None,
    rules: tuple[Rule, ...] = RULES,
    lengths: dict[str, int] | None = None,
) -> ShardLayout | NoLayout:
    """What the rules say of an activation of a module."""
    subject = Subject(
        path=path,
        module=module,
        parent=parent,
        kind=kind,
        slot=slot,
        local_shape=shape,
    )
    return activation_layout(rules, subject, run, lengths)
