"""Layouts of Megatron's parameters and of their gradients.

What is sharded, and where, is read from the attributes that Megatron puts on
parameters; where they are missing, from the class. Of the others, rules say whether the
gradient of one micro-batch is a partial of a sum (``parameter_rules``).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.matching import is_a
from ttrace.frontends.megatron_parts.names import (
    OUTPUT_LAYER,
    WORD_EMBEDDINGS,
    OwnedParameter,
)
from ttrace.frontends.megatron_parts.rule_table import RULES
from ttrace.frontends.megatron_parts.rules import Rule, Subject, rule_layout
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.dims import Dims
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.splits import Dim, Modifier, Split

_GROUPED_CLASSES = ("GroupedMLP", "TEGroupedMLP", "*GroupedLinear")

_DIMS_BY_CLASS = {
    "*ColumnParallelLinear": {"weight": 0, "bias": 0},
    "*RowParallelLinear": {"weight": 1},
    "VocabParallelEmbedding": {"weight": 0},
}
"""The dim that Megatron's tensor-parallel classes shard, by parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reduction:
    """What one micro-batch's gradient of a parameter still lacks.

    Attributes:
        mesh: The mesh to speak of.
        partial_axes: Axes over which it must be summed.
        num_partials: Number of ranks that have a share, where not all have one.
    """

    mesh: Mesh
    partial_axes: tuple[str, ...] = ()
    num_partials: int | None = None


def parameter_layout(
    owned: OwnedParameter,
    kind: Kind,
    context: ShardingContext,
    rules: Sequence[Rule] = RULES,
) -> ShardLayout | NoLayout:
    """Layout of a parameter, its gradient or its optimizer state.

    Args:
        owned: The parameter.
        kind: ``param_grad`` is the gradient of one micro-batch before any reduction;
            all other kinds are replicas wherever they are not sharded.
        context: The run.
        rules: Asked in this order; the built-in ones if none are given.
    """
    if is_a(owned.owner.module, *_GROUPED_CLASSES):
        return NoLayout(
            reason="the experts of one rank lie in one grouped parameter "
            f"({type(owned.owner.module).__name__}), which cannot be cut into experts "
            "yet"
        )
    subject = parameter_subject(owned, kind)
    if not owned.owner.in_experts:
        by_rule = rule_layout(rules, subject, context)
        if by_rule is not None:
            return by_rule
    sharded = _sharded_dim(owned, context)
    if isinstance(sharded, NoLayout):
        return sharded
    meshes = context.meshes
    home = meshes.expert if owned.owner.in_experts else meshes.dense
    reduction: _Reduction | NoLayout = _Reduction(mesh=home)
    if kind is Kind.PARAM_GRAD:
        reduction = _pending_reduction(owned, sharded, subject, context)
    if isinstance(reduction, NoLayout):
        return reduction
    dims, global_shape = _dims(owned, sharded, context)
    dims = Dims(dims=dims, partial_axes=reduction.partial_axes)
    layout = dims.lower(global_shape, reduction.mesh)
    return replace(layout, num_partials=reduction.num_partials)


def unmarked_parameters(
    parameters: Iterable[OwnedParameter], context: ShardingContext
) -> list[OwnedParameter]:
    """Those whose sharding follows from their class alone.

    Args:
        parameters: Of this rank.
        context: The run.
    """
    return [
        owned
        for owned in parameters
        if not _is_marked(owned)
        and _dim_of_class(owned) is not None
        and _tensor_axis(owned, context)[1] > 1
    ]


def parameter_subject(owned: OwnedParameter, kind: Kind) -> Subject:
    """A parameter, or a tensor of its shape, as rules are asked about it."""
    return Subject(
        path=owned.owner.path,
        module=owned.owner.module,
        parent=owned.owner.parent,
        kind=kind,
        slot=owned.named.slot,
        local_shape=tuple(owned.named.parameter.shape),
    )


def _dims(
    owned: OwnedParameter, sharded: int | None, context: ShardingContext
) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
    shape = list(owned.named.parameter.shape)
    dims = [Dim(name=f"d{dim}") for dim in range(len(shape))]
    axis, size = _tensor_axis(owned, context)
    if sharded is None or (size == 1 and owned.owner.in_experts):
        # Whole experts may be described on the dense mesh, which has no axis etp.
        return tuple(dims), tuple(shape)
    shape[sharded] *= size
    dims[sharded] = replace(dims[sharded], splits=(Split(axis=axis),))
    if _is_vocabulary(owned) and shape[sharded] == context.padded_vocab_size:
        dims[sharded] = context.vocabulary_dim
        shape[sharded] = context.vocab_size
    elif context.gated_linear_unit and owned.owner.name == "linear_fc1":
        # Each rank holds its part of the gate above its part of the up projection.
        gate_and_up = Split(axis=axis, modifier=Modifier.PARTS, numbers=(2,))
        dims[sharded] = replace(dims[sharded], splits=(gate_and_up,))
    return tuple(dims), tuple(shape)


def _sharded_dim(
    owned: OwnedParameter, context: ShardingContext
) -> int | None | NoLayout:
    """The dim over which tensor parallelism shards a parameter; None for no dim."""
    parameter: Any = owned.named.parameter
    if not _is_marked(owned):
        return _dim_of_class(owned)
    dim = getattr(parameter, "partition_dim", None)
    if dim is None:
        dim = _dim_of_class(owned)
    if dim is None or not 0 <= dim < parameter.ndim:
        if _tensor_axis(owned, context)[1] == 1:
            return None
        subject = parameter_subject(owned, Kind.PARAM)
        return NoLayout(
            reason=f"{subject.described} is marked as tensor-parallel, but not along "
            f"which dim (partition_dim is {dim}); add a rule: {subject.line_to_add}"
        )
    return int(dim)


def _is_marked(owned: OwnedParameter) -> bool:
    return bool(getattr(owned.named.parameter, "tensor_model_parallel", False))


def _dim_of_class(owned: OwnedParameter) -> int | None:
    for pattern, dims in _DIMS_BY_CLASS.items():
        if is_a(owned.owner.module, pattern):
            return dims.get(owned.named.slot)
    return None


def _tensor_axis(owned: OwnedParameter, context: ShardingContext) -> tuple[str, int]:
    """The axis over which tensor parallelism would cut a parameter, and its size."""
    if owned.owner.in_experts:
        return "etp", context.meshes.expert.sizes["etp"]
    return "tp", context.meshes.tp


def _is_vocabulary(owned: OwnedParameter) -> bool:
    module = owned.named.module
    return module == WORD_EMBEDDINGS or module.rpartition(".")[2] == OUTPUT_LAYER


def _pending_reduction(
    owned: OwnedParameter,
    sharded: int | None,
    subject: Subject,
    context: ShardingContext,
) -> _Reduction | NoLayout:
    if owned.owner.in_experts:
        return _reduction_of_expert(context)
    over_tp = _is_partial_over_tp(owned, sharded, subject, context)
    if isinstance(over_tp, NoLayout):
        return over_tp
    meshes = context.meshes
    is_copied = meshes.pp > 1 and owned.named.module in context.copied_modules
    partials = {
        # Of the pipeline's ranks the first and the last one use the weight.
        "pp": 2 if is_copied else 1,
        "cp": meshes.cp,  # each has seen a part of the sequence
        "tp": meshes.tp if over_tp else 1,
    }
    return _Reduction(
        mesh=meshes.dense,
        partial_axes=tuple(axis for axis, number in partials.items() if number > 1),
        num_partials=math.prod(partials.values()) if is_copied else None,
    )


def _is_partial_over_tp(
    owned: OwnedParameter,
    sharded: int | None,
    subject: Subject,
    context: ShardingContext,
) -> bool | NoLayout:
    """Whether the gradients of the ranks along ``tp`` must be summed."""
    if context.meshes.tp == 1 or sharded is not None:
        return False
    if is_a(owned.owner.module, "Embedding"):
        return False  # looked up before the sequence is sharded
    if context.sequence_parallel and getattr(
        owned.named.parameter, "sequence_parallel", False
    ):
        return True  # its author says so: Megatron sums them over tp
    return NoLayout(
        reason=f"what {subject.described} is given on each tensor-parallel rank is not "
        "known, so neither is whether the ranks' gradients of a micro-batch are "
        f"partials of a sum; add a rule: {subject.line_to_add}, and "
        "gradient_dims='... partial[tp]' if they are"
    )


def _reduction_of_expert(context: ShardingContext) -> _Reduction | NoLayout:
    """An expert's gradient comes from the tokens of its group of ``ep x etp`` ranks."""
    dense, expert = context.meshes.dense, context.meshes.expert
    group, tokens, dp = (
        expert.sizes["ep"] * expert.sizes["etp"],
        context.meshes.tp * context.meshes.cp,  # ranks that share a micro-batch
        context.meshes.dp,
    )
    if group == tokens or (dp == 1 and expert.sizes["edp"] == 1):
        return _Reduction(mesh=expert)
    if dp == 1:
        return _Reduction(mesh=expert, partial_axes=("edp",))
    if group == 1:
        # Axis edp would span other micro-batches too; without ep and etp the ranks
        # that see the same micro-batch are those along cp and tp.
        sizes = {"cp": context.meshes.cp, "tp": context.meshes.tp}
        axes = tuple(axis for axis, size in sizes.items() if size > 1)
        return _Reduction(mesh=dense, partial_axes=axes)
    if group > tokens:
        return NoLayout(
            reason="experts are shared by data-parallel ranks, so the gradient of one "
            "backward mixes several micro-batches"
        )
    return NoLayout(
        reason=f"of the {tokens} ranks that see a micro-batch only every "
        f"{group}th holds a given expert"
    )
