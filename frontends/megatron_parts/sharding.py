"""Layouts of Megatron's parameters and of their gradients.

What is cut, and where, is read from the attributes that Megatron puts on parameters.
Whether the gradient of one micro-batch is a share of a sum follows from the class of
the module that owns the parameter, never from the ``sequence_parallel`` attribute: a
module that lost it is a bug to be found, not a layout.
"""

import math
from dataclasses import dataclass, replace

from ttrace.errors import UsageError
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.matching import is_a
from ttrace.frontends.megatron_parts.names import (
    OUTPUT_LAYER,
    WORD_EMBEDDINGS,
    OwnedParameter,
)
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.dims import parse_dims
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.tensor_id import Kind

_PARALLEL_CLASSES = (
    "*ColumnParallelLinear",
    "*RowParallelLinear",
    "VocabParallelEmbedding",
)
_GROUPED_CLASSES = ("GroupedMLP", "TEGroupedMLP", "*GroupedLinear")
_NORMS = ("*Norm",)
_HEAD_NORMS = ("q_layernorm", "k_layernorm")


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
    owned: OwnedParameter, kind: Kind, context: ShardingContext
) -> ShardLayout | NoLayout:
    """Layout of a parameter, its gradient or its optimizer state.

    Args:
        owned: The parameter.
        kind: ``param_grad`` is the gradient of one micro-batch before any reduction;
            all other kinds are replicas wherever they are not cut.
        context: The run.

    Raises:
        UsageError: Megatron did not say how the parameter is cut.
    """
    if is_a(owned.owner.module, *_GROUPED_CLASSES):
        return NoLayout(
            reason="the experts of one rank lie in one grouped parameter "
            f"({type(owned.owner.module).__name__}), which cannot be cut into experts "
            "yet"
        )
    meshes = context.meshes
    home = meshes.expert if owned.owner.in_experts else meshes.dense
    reduction: _Reduction | NoLayout = _Reduction(mesh=home)
    if kind is Kind.PARAM_GRAD:
        reduction = _pending_reduction(owned, context)
    if isinstance(reduction, NoLayout):
        return reduction
    dims, global_shape = _dims(owned, context)
    if reduction.partial_axes:
        dims += f" partial[{','.join(reduction.partial_axes)}]"
    layout = parse_dims(dims).lower(global_shape, reduction.mesh)
    return replace(layout, num_partials=reduction.num_partials)


def _dims(
    owned: OwnedParameter, context: ShardingContext
) -> tuple[str, tuple[int, ...]]:
    parameter = owned.named.parameter
    shape = list(parameter.shape)
    names = [f"d{dim}" for dim in range(len(shape))]
    cut = _cut_dim(owned, context)
    axis, size = _tensor_axis(owned, context)
    if cut is None or (size == 1 and owned.owner.in_experts):
        # Uncut experts may be described on the dense mesh, which has no axis etp.
        return " ".join(names), tuple(shape)
    shape[cut] *= size
    names[cut] += f"[{axis}]"
    if _is_vocabulary(owned) and shape[cut] == context.padded_vocab_size:
        names[cut] = context.vocabulary_dim(sharded=True)
        shape[cut] = context.vocab_size
    elif context.gated_linear_unit and _name(owned) == "linear_fc1":
        # Each rank holds its part of the gate above its part of the up projection.
        names[cut] = f"d{cut}[{axis}:parts(2)]"
    return " ".join(names), tuple(shape)


def _cut_dim(owned: OwnedParameter, context: ShardingContext) -> int | None:
    parameter = owned.named.parameter
    if getattr(parameter, "tensor_model_parallel", False):
        return int(getattr(parameter, "partition_dim"))  # noqa: B009, set by Megatron
    _, size = _tensor_axis(owned, context)
    owner = owned.owner.module
    if size > 1 and owned.named.slot == "weight" and is_a(owner, *_PARALLEL_CLASSES):
        raise UsageError(
            "a tensor-parallel parameter does not say how it is cut",
            where=f"{owned.named.module}.{owned.named.slot} ({type(owner).__name__})",
            expected="the attributes tensor_model_parallel and partition_dim, which "
            "Megatron sets where it initializes parameters",
            got="none",
            remedy="build the model with perform_initialization=True",
        )
    if size > 1 and is_a(owner, "*DotProductAttention"):
        return 0  # softmax_offset, one number per head; Megatron leaves it unmarked
    return None


def _tensor_axis(owned: OwnedParameter, context: ShardingContext) -> tuple[str, int]:
    """The axis over which tensor parallelism would cut a parameter, and its size."""
    if owned.owner.in_experts:
        return "etp", context.meshes.expert.sizes["etp"]
    return "tp", context.meshes.tp


def _is_vocabulary(owned: OwnedParameter) -> bool:
    return owned.named.module in (WORD_EMBEDDINGS, OUTPUT_LAYER)


def _name(owned: OwnedParameter) -> str:
    return owned.owner.path.rpartition(".")[2]


def _pending_reduction(
    owned: OwnedParameter, context: ShardingContext
) -> _Reduction | NoLayout:
    if owned.owner.in_experts:
        return _reduction_of_expert(context)
    over_tp = _is_share_of_tensor_ranks(owned, context)
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


def _is_share_of_tensor_ranks(
    owned: OwnedParameter, context: ShardingContext
) -> bool | NoLayout:
    """Whether the gradients of the ranks along ``tp`` must be summed."""
    if context.meshes.tp == 1 or _cut_dim(owned, context) is not None:
        return False
    owner = owned.owner.module
    if _name(owned) in _HEAD_NORMS:
        # They normalize this rank's heads, whether or not the sequence is cut. Keys
        # that several ranks have get from each the gradient of its queries alone.
        return True
    if is_a(owner, "Embedding") or not context.sequence_parallel:
        # Embeddings are looked up before the sequence is cut.
        return False
    if is_a(owner, *_NORMS, "Router", *_PARALLEL_CLASSES, "SharedExpertMLP"):
        return True
    return NoLayout(
        reason=f"whether {type(owner).__name__} sees the whole sequence under sequence "
        "parallelism is not known, so neither is whether its gradient is a share"
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
