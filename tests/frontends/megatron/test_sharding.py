"""Layouts of parameters and activations, on stand-ins with Megatron's class names."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from torch import nn  # noqa: E402

from ttrace.errors import LayoutError, UsageError  # noqa: E402
from ttrace.frontends.megatron_parts.context import ShardingContext  # noqa: E402
from ttrace.frontends.megatron_parts.meshes import MegatronMeshes  # noqa: E402
from ttrace.frontends.megatron_parts.names import (  # noqa: E402
    CanonicalModule,
    OwnedParameter,
)
from ttrace.frontends.megatron_parts.rule_table import RULES  # noqa: E402
from ttrace.frontends.megatron_parts.rules import (  # noqa: E402
    Direction,
    Rule,
    Subject,
    activation_layout,
)
from ttrace.frontends.megatron_parts.sharding import (  # noqa: E402
    parameter_layout,
    unmarked_parameters,
)
from ttrace.frontends.torch_parts.description import NamedParameter, NoLayout  # noqa: E402
from ttrace.ir.layout import Mesh, Region, ShardLayout  # noqa: E402
from ttrace.ir.tensor_id import Kind  # noqa: E402


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


class TestParameters:
    def test_a_column_parallel_weight_is_cut_where_megatron_says(self):
        weight = owned(ColumnParallelLinear(), (4, 8), dim=0)
        layout = layout_of(weight, Kind.PARAM, context(tp=2, tp_rank=1))
        assert layout.global_shape == (8, 8)
        assert rows(layout) == [(4, 8)]
        assert layout.mesh == "dense"

    def test_a_row_parallel_weight_is_cut_along_dim_1(self):
        weight = owned(RowParallelLinear(), (8, 4), dim=1)
        layout = layout_of(weight, Kind.MAIN_GRAD, context(tp=2, tp_rank=1))
        (block,) = layout.blocks
        assert block.region == Region(start=(0, 4), extent=(8, 4))
        assert layout.partial_axes == ()

    def test_gate_and_up_projection_are_cut_on_their_own(self):
        weight = owned(ColumnParallelLinear(), (8, 8), dim=0)
        run = context(tp=2, tp_rank=1, gated_linear_unit=True)
        assert rows(layout_of(weight, Kind.PARAM, run)) == [(4, 8), (12, 16)]

    def test_query_key_value_are_contiguous(self):
        path = "decoder.layers.0.self_attention.linear_qkv"
        weight = owned(ColumnParallelLinear(), (12, 8), path, dim=0)
        run = context(tp=2, tp_rank=1, gated_linear_unit=True)
        assert rows(layout_of(weight, Kind.PARAM, run)) == [(12, 24)]

    @pytest.mark.parametrize(
        ("tp", "tp_rank", "expected"),
        [(2, 0, (0, 4)), (2, 1, (4, 7)), (1, 0, (0, 7))],
    )
    def test_padded_rows_of_the_vocabulary_belong_to_no_block(
        self, tp, tp_rank, expected
    ):
        weight = owned(
            class_named("VocabParallelEmbedding")(),
            (8 // tp, 4),
            "embedding.word_embeddings",
            dim=0,
        )
        run = context(tp=tp, tp_rank=tp_rank, vocab_size=7, padded_vocab_size=8)
        layout = layout_of(weight, Kind.PARAM, run)
        assert layout.global_shape == (7, 4)
        assert layout.local_shape == (8 // tp, 4)
        assert rows(layout) == [expected]

    def test_a_vocabulary_larger_than_the_embedding_is_refused(self):
        with pytest.raises(UsageError, match="larger than the model's embedding"):
            context(vocab_size=9, padded_vocab_size=8)

    @pytest.mark.parametrize(
        ("owner", "slot", "global_shape"),
        [
            ("TEColumnParallelLinear", "weight", (8, 8)),
            ("ColumnParallelLinear", "bias", (8,)),
            ("RowParallelLinear", "weight", (4, 16)),
            ("RowParallelLinear", "bias", (4,)),
            ("VocabParallelEmbedding", "weight", (8, 8)),
        ],
    )
    def test_without_marks_the_class_says_what_is_sharded(
        self, owner, slot, global_shape
    ):
        """As where Megatron does not initialize the parameters."""
        shape = (4, 8) if slot == "weight" else (4,)
        weight = owned(class_named(owner)(), shape, slot=slot)
        run = context(tp=2)
        assert layout_of(weight, Kind.PARAM, run).global_shape == global_shape
        assert unmarked_parameters([weight], run) == (
            [weight] if global_shape != shape else []
        )
        assert unmarked_parameters([weight], context()) == []

    def test_a_mark_without_a_dim_is_skipped_with_the_line_to_add(self):
        weight = owned(
            class_named("MyScan")(), (4,), slot="decay", tensor_model_parallel=True
        )
        layout = parameter_layout(weight, Kind.PARAM, context(tp=2))
        assert isinstance(layout, NoLayout)
        assert "marked as tensor-parallel, but not along which dim" in layout.reason
        assert "Rule(module='MyScan', direction=Direction.PARAMETER" in layout.reason
        assert layout_of(weight, Kind.PARAM, context(dp=2)).global_shape == (4,)
        rule = Rule(module="MyScan", direction=Direction.PARAMETER, dims="d0[tp]")
        layout = parameter_layout(weight, Kind.PARAM, context(tp=2), (rule,))
        assert isinstance(layout, ShardLayout) and layout.global_shape == (8,)

    def test_the_same_weight_is_whole_without_tensor_parallelism(self):
        weight = owned(ColumnParallelLinear(), (4, 8))
        assert layout_of(weight, Kind.PARAM, context()).global_shape == (4, 8)

    def test_grouped_experts_are_skipped_with_a_reason(self):
        weight = owned(class_named("TEColumnParallelGroupedLinear")(), (4, 8))
        layout = parameter_layout(weight, Kind.PARAM, context())
        assert isinstance(layout, NoLayout) and "grouped" in layout.reason


_SEQUENCE_CUT = [
    (nn.LayerNorm(4), "decoder.final_layernorm", "weight", Block),
    (nn.RMSNorm(4), "decoder.layers.0.input_layernorm", "weight", Layer),
    (nn.RMSNorm(4), "decoder.layers.0.self_attention.q_layernorm", "weight", Latent),
    (nn.RMSNorm(4), "decoder.layers.0.self_attention.kv_layernorm", "weight", Latent),
    (nn.LayerNorm(4), "mtp.layers.0.enorm", "weight", Prediction),
    (Router(), "decoder.layers.0.mlp.router", "bias", MoELayer),
    (RowParallelLinear(), "decoder.layers.0.mlp.linear_fc2", "bias", Layer),
    (
        class_named("TELayerNormColumnParallelLinear")(),
        "decoder.layers.0.mlp.linear_fc1",
        "layer_norm_weight",
        Layer,
    ),
]


class TestGradientsOfOneMicroBatch:
    @pytest.mark.parametrize(("owner", "path", "slot", "parent"), _SEQUENCE_CUT)
    @pytest.mark.parametrize("sequence_parallel_mark", [True, False])
    def test_where_the_sequence_is_cut_they_are_shares(
        self, owner, path, slot, parent, sequence_parallel_mark
    ):
        # Whether Megatron marked the parameter is what a bug gets wrong.
        parameter = owned(
            owner,
            (4,),
            path,
            slot=slot,
            parent=parent(),
            sequence_parallel=sequence_parallel_mark,
        )
        run = context(tp=2, sp=True)
        assert layout_of(parameter, Kind.PARAM_GRAD, run).partial_axes == ("tp",)
        for kind in (Kind.PARAM, Kind.MAIN_GRAD, Kind.UPDATED_PARAM):
            assert layout_of(parameter, kind, run).partial_axes == ()

    @pytest.mark.parametrize(("owner", "path", "slot", "parent"), _SEQUENCE_CUT)
    def test_without_sequence_parallelism_they_are_replicas(
        self, owner, path, slot, parent
    ):
        parameter = owned(owner, (4,), path, slot=slot, parent=parent())
        layout = layout_of(parameter, Kind.PARAM_GRAD, context(tp=2))
        assert layout.partial_axes == ()

    def test_position_embeddings_see_the_whole_sequence(self):
        weight = owned(nn.Embedding(4, 4), (4, 4), "embedding.position_embeddings")
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=True))
        assert layout.partial_axes == ()

    def test_cut_parameters_have_complete_gradients(self):
        weight = owned(ColumnParallelLinear(), (4, 8), dim=0)
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=True))
        assert layout.partial_axes == ()

    @pytest.mark.parametrize("sp", [True, False])
    def test_norms_of_heads_are_shares_either_way(self, sp):
        path = "decoder.layers.0.self_attention.q_layernorm"
        weight = owned(nn.LayerNorm(4), (4,), path, parent=Attention())
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=sp))
        assert layout.partial_axes == ("tp",)

    def test_norms_of_shared_heads_are_shares_too(self):
        """Every rank has the gradient that comes from its own queries."""
        path = "decoder.layers.0.self_attention.k_layernorm"
        weight = owned(nn.LayerNorm(4), (4,), path, parent=Attention())
        run = context(tp=2, num_query_groups=1)
        assert layout_of(weight, Kind.PARAM_GRAD, run).partial_axes == ("tp",)

    @pytest.mark.parametrize("sp", [True, False])
    def test_where_the_sequence_is_cut_over_cp_all_are_shares(self, sp):
        run = context(tp=2, cp=2, sp=sp)
        weight = owned(ColumnParallelLinear(), (4, 8), dim=0)
        layout = layout_of(weight, Kind.PARAM_GRAD, run)
        assert (layout.partial_axes, layout.num_partials) == (("cp",), None)
        norm = owned(
            nn.LayerNorm(4), (4,), path="decoder.final_layernorm", parent=Block()
        )
        axes = ("cp", "tp") if sp else ("cp",)
        assert layout_of(norm, Kind.PARAM_GRAD, run).partial_axes == axes
        assert layout_of(norm, Kind.MAIN_GRAD, run).partial_axes == ()

    @pytest.mark.parametrize(("cp", "axes"), [(1, ("pp",)), (2, ("pp", "cp"))])
    def test_of_a_weight_in_both_end_stages_two_stages_hold_shares(self, cp, axes):
        run = context(
            pp=4, cp=cp, copied_modules=frozenset({"embedding.word_embeddings"})
        )
        weight = owned(nn.Embedding(4, 8), (4, 8), path="embedding.word_embeddings")
        layout = layout_of(weight, Kind.PARAM_GRAD, run)
        assert (layout.partial_axes, layout.num_partials) == (axes, 2 * cp)
        replica = layout_of(weight, Kind.MAIN_GRAD, run)
        assert (replica.partial_axes, replica.num_partials) == ((), None)
        other = owned(nn.Embedding(4, 8), (4, 8), path="embedding.position_embeddings")
        assert layout_of(other, Kind.PARAM_GRAD, run).partial_axes == axes[1:]

    @pytest.mark.parametrize("sp", [True, False])
    def test_of_unknown_modules_they_are_skipped_where_it_matters(self, sp):
        weight = owned(class_named("MyAdapter")(), (4,), "decoder.adapter")
        layout = parameter_layout(weight, Kind.PARAM_GRAD, context(tp=2, sp=sp))
        assert isinstance(layout, NoLayout)
        assert "what parameter weight of MyAdapter" in layout.reason
        assert "Rule(module='MyAdapter', direction=Direction.PARAMETER" in layout.reason
        for kind in (Kind.PARAM, Kind.MAIN_GRAD):
            assert layout_of(weight, kind, context(tp=2, sp=sp)).global_shape == (4,)
        assert layout_of(weight, Kind.PARAM_GRAD, context(dp=2)).partial_axes == ()

    def test_a_norm_where_no_rule_knows_it_is_not_taken_for_another(self):
        run = context(tp=2, sp=True)
        norm = owned(nn.LayerNorm(4), (4,), "decoder.x.norm", parent=MoELayer())
        assert isinstance(parameter_layout(norm, Kind.PARAM_GRAD, run), NoLayout)

    def test_what_its_author_marks_as_a_partial_is_one(self):
        """Where no rule knows the module: Megatron sums what is marked."""
        weight = owned(class_named("MyNorm")(), (4,), sequence_parallel=True)
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=True))
        assert layout.partial_axes == ("tp",)
        unsharded = parameter_layout(weight, Kind.PARAM_GRAD, context(tp=2))
        assert isinstance(unsharded, NoLayout)

    def test_a_rule_of_the_user_describes_them(self):
        rule = Rule(
            module="MyAdapter",
            direction=Direction.PARAMETER,
            dims="d",
            gradient_dims="d partial[cp,tp]",
        )
        weight = owned(class_named("MyAdapter")(), (4,), "decoder.adapter")
        run = context(tp=2, cp=2)
        gradient = parameter_layout(weight, Kind.PARAM_GRAD, run, (rule, *RULES))
        value = parameter_layout(weight, Kind.MAIN_GRAD, run, (rule, *RULES))
        assert isinstance(gradient, ShardLayout) and isinstance(value, ShardLayout)
        assert gradient.partial_axes == ("cp", "tp")
        assert value.partial_axes == ()

    @pytest.mark.parametrize("sp", [True, False])
    def test_the_indexer_of_sparse_attention_sees_the_whole_sequence(self, sp):
        """Marked or not: it gathers the sequence first."""
        run = context(tp=2, sp=sp)
        for owner, shape in ((nn.LayerNorm(4), (4,)), (nn.Linear(4, 2), (2, 4))):
            weight = owned(owner, shape, parent=Indexer(), sequence_parallel=True)
            assert layout_of(weight, Kind.PARAM_GRAD, run).partial_axes == ()

    @pytest.mark.parametrize("sp", [True, False])
    def test_duplicated_projections_see_a_part_of_the_sequence(self, sp):
        path = "decoder.layers.0.self_attention.linear_kv_down_proj"
        weight = owned(nn.Linear(4, 2), (2, 4), path, parent=Latent())
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=sp))
        assert layout.partial_axes == (("tp",) if sp else ())

    @pytest.mark.parametrize("sp", [True, False])
    def test_the_output_norm_of_linear_attention_sees_its_own_heads(self, sp):
        path = "decoder.layers.0.self_attention.out_norm"
        weight = owned(nn.RMSNorm(4), (4,), path, parent=DeltaNet())
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=sp))
        assert layout.partial_axes == ("tp",)


class TestGatedDeltaNet:
    """Queries, keys, values, gate, beta and alpha are sharded each on its own."""

    def parameter(self, name: str, shape: tuple[int, ...]) -> OwnedParameter:
        owner, _, slot = name.rpartition(".")
        net = DeltaNet()
        path = "decoder.layers.0.self_attention"
        return owned(
            nn.Conv1d(1, 1, 1) if owner else net,
            shape,
            f"{path}.{owner}" if owner else path,
            slot=slot,
            parent=net if owner else Layer(),
            tensor_model_parallel=True,
        )

    def test_the_projection(self):
        weight = self.parameter("in_proj.weight", (14, 3))
        layout = layout_of(weight, Kind.PARAM, context(tp=2, tp_rank=1))
        assert layout.global_shape == (28, 3)
        expected = [(2, 4), (6, 8), (12, 16), (20, 24), (25, 26), (27, 28)]
        assert rows(layout) == expected

    @pytest.mark.parametrize("shape", [(8, 1, 4), (8,)])
    def test_the_convolution(self, shape):
        slot = "weight" if len(shape) > 1 else "bias"
        weight = self.parameter(f"conv1d.{slot}", shape)
        layout = layout_of(weight, Kind.MAIN_GRAD, context(tp=2))
        assert rows(layout) == [(0, 2), (4, 6), (8, 12)]

    @pytest.mark.parametrize("slot", ["dt_bias", "A_log"])
    def test_numbers_per_head(self, slot):
        weight = self.parameter(slot, (1,))
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, tp_rank=1))
        assert (rows(layout), layout.partial_axes) == ([(1, 2)], ())

    def test_rows_of_the_output_norm_are_heads(self):
        layout = activation(
            nn.RMSNorm(4),
            Kind.INPUT,
            "0",
            (3, 4),
            context(tp=2, tp_rank=1),
            path="decoder.layers.0.self_attention.out_norm",
            parent=DeltaNet(),
        )
        assert isinstance(layout, ShardLayout)
        assert layout.global_shape == (6, 4)
        assert rows(layout) == [(1, 2), (3, 4), (5, 6)]


class TestExperts:
    """An expert gets its tokens from ep x etp ranks."""

    @staticmethod
    def weight() -> OwnedParameter:
        path = "decoder.layers.0.mlp.experts.local_experts.0.linear_fc1"
        # Megatron marks them as cut even where the axis has size 1.
        owner = ColumnParallelLinear()
        return owned(owner, (4, 8), path, dim=0, in_experts=True)

    def test_they_are_cut_over_their_own_tensor_parallel_axis(self):
        run = context(tp=2, sp=True, etp=2, tp_rank=1)
        layout = layout_of(self.weight(), Kind.PARAM, run)
        assert layout.mesh == "expert"
        assert layout.global_shape == (8, 8)
        assert rows(layout) == [(4, 8)]

    @pytest.mark.parametrize(
        ("sizes", "mesh", "partial_axes"),
        [
            ({"tp": 2, "etp": 2}, "expert", ()),
            ({"tp": 2, "etp": 1, "ep": 2}, "expert", ()),
            ({"tp": 2, "etp": 1}, "expert", ("edp",)),
            ({"tp": 4, "etp": 1, "ep": 2}, "expert", ("edp",)),
            ({"tp": 2, "etp": 1, "dp": 2}, "dense", ("tp",)),
            ({"tp": 2, "etp": 2, "dp": 2}, "expert", ()),
            ({"dp": 2, "etp": 1}, "expert", ()),
            ({"cp": 2, "etp": 1}, "expert", ("edp",)),
            ({"cp": 2, "ep": 2, "etp": 1}, "expert", ()),
            ({"cp": 2, "dp": 2, "etp": 1}, "dense", ("cp",)),
            ({"tp": 2, "cp": 2, "dp": 2, "etp": 1}, "dense", ("cp", "tp")),
        ],
    )
    def test_shares_follow_from_who_sends_tokens(self, sizes, mesh, partial_axes):
        weight = self.weight()
        layout = layout_of(weight, Kind.PARAM_GRAD, context(sp=True, **sizes))
        assert (layout.mesh, layout.partial_axes) == (mesh, partial_axes)
        replica = layout_of(weight, Kind.MAIN_GRAD, context(sp=True, **sizes))
        assert (replica.mesh, replica.partial_axes) == ("expert", ())

    @pytest.mark.parametrize(
        ("sizes", "reason"),
        [
            ({"dp": 2, "ep": 2, "etp": 1}, "mixes several micro-batches"),
            ({"tp": 4, "dp": 2, "ep": 2, "etp": 1}, "only every 2th"),
        ],
    )
    def test_what_cannot_be_said_is_skipped(self, sizes, reason):
        run = context(sp=True, **sizes)
        layout = parameter_layout(self.weight(), Kind.PARAM_GRAD, run)
        assert isinstance(layout, NoLayout) and reason in layout.reason


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
    subject = Subject(
        path=path,
        module=module,
        parent=parent,
        kind=kind,
        slot=slot,
        local_shape=shape,
    )
    return activation_layout(rules, subject, run, lengths)


class TestActivations:
    @pytest.mark.parametrize(
        ("sp", "global_shape"), [(True, (8, 2, 4)), (False, (4, 2, 4))]
    )
    def test_hidden_states_are_cut_under_sequence_parallelism(self, sp, global_shape):
        layer = class_named("TransformerLayer")()
        run = context(tp=2, sp=sp)
        layout = activation(layer, Kind.INPUT, "hidden_states", (4, 2, 4), run)
        assert isinstance(layout, ShardLayout)
        assert layout.global_shape == global_shape

    def test_subclasses_follow_the_rules_of_their_base(self):
        shared = class_named("SharedExpertMLP", class_named("MLP"))()
        layout = activation(
            shared, Kind.GRAD_OUTPUT, "0", (4, 2, 4), context(tp=2, sp=True)
        )
        assert isinstance(layout, ShardLayout)
        assert layout.dims == "s[cp:zigzag,tp] b h"

    @pytest.mark.parametrize("sp", [True, False])
    def test_a_returned_bias_is_whole_and_its_gradient_a_share(self, sp):
        linear = RowParallelLinear()
        run = context(tp=2, sp=sp)
        value = activation(linear, Kind.OUTPUT, "1", (4,), run)
        gradient = activation(linear, Kind.GRAD_OUTPUT, "1", (4,), run)
        assert isinstance(value, ShardLayout) and isinstance(gradient, ShardLayout)
        assert value.partial_axes == ()
        assert gradient.partial_axes == (("tp",) if sp else ())

    def test_the_output_of_a_gated_linear_is_cut_in_halves(self):
        run = context(tp=2, tp_rank=1, gated_linear_unit=True)
        layout = activation(
            ColumnParallelLinear(),
            Kind.OUTPUT,
            "0",
            (2, 1, 4),
            run,
            path="decoder.layers.0.mlp.linear_fc1",
        )
        assert isinstance(layout, ShardLayout)
        assert [b.region.start[2] for b in layout.blocks] == [2, 6]

    @pytest.mark.parametrize(
        ("num_query_groups", "num_local", "dims", "start"),
        [
            (8, 2, "s[cp:zigzag] b n[tp] d", 6),
            (4, 1, "s[cp:zigzag] b n[tp] d", 3),
            (2, 1, "s[cp:zigzag] b n[tp:shared(2)] d", 1),
            (1, 1, "s[cp:zigzag] b n[tp:shared(4)] d", 0),
        ],
    )
    def test_ranks_share_key_heads_that_are_fewer_than_they(
        self, num_query_groups, num_local, dims, start
    ):
        run = context(tp=4, tp_rank=3, num_query_groups=num_query_groups)
        attention = class_named("DotProductAttention")()
        shape = (2, 1, num_local, 8)
        key = activation(attention, Kind.INPUT, "1", shape, run)
        gradient = activation(attention, Kind.GRAD_INPUT, "key", shape, run)
        assert isinstance(key, ShardLayout) and isinstance(gradient, ShardLayout)
        assert key.global_shape == (2, 1, num_query_groups, 8)
        assert (key.dims, key.blocks[0].region.start[2]) == (dims, start)
        num_holders = 4 // num_query_groups
        assert key.partial_axes == ()
        if num_holders > 1:
            assert gradient.dims == f"{dims} partial[tp]"
            assert gradient.num_partials == num_holders
        else:
            assert gradient.dims == dims

    def test_logits_leave_the_padded_vocabulary_out(self):
        run = context(tp=2, tp_rank=1, vocab_size=7, padded_vocab_size=8)
        model = class_named("GPTModel")()
        layout = activation(model, Kind.OUTPUT, "0", (2, 4, 4), run, path="@root")
        assert isinstance(layout, ShardLayout)
        assert layout.global_shape == (2, 4, 7)
        (block,) = layout.blocks
        assert block.region.extent == (2, 4, 3)

    def test_loss_and_logits_are_told_apart_by_their_dims(self):
        model = class_named("GPTModel")()
        layout = activation(model, Kind.OUTPUT, "0", (2, 4), context(tp=2))
        assert isinstance(layout, ShardLayout)
        assert layout.global_shape == (2, 4)

    def test_what_no_rule_fits_says_how_to_add_one(self):
        module, parent = class_named("MyModule")(), Layer()
        run = context(tp=2)
        layout = activation(module, Kind.OUTPUT, "0", (4, 2), run, parent=parent)
        assert isinstance(layout, NoLayout)
        assert (
            "no layout rule for output 0 of MyModule in TransformerLayer, of shape "
            "[4, 2]" in layout.reason
        )
        assert (
            "megatron_adapter.trace(..., rules=[Rule(module='MyModule', "
            "parent='TransformerLayer', direction=Direction.OUTPUT, slot='0', "
            "dims='d0 d1')])" in layout.reason
        )

    def test_where_nothing_is_sharded_no_rule_is_needed(self):
        layout = activation(
            class_named("MyModule")(), Kind.OUTPUT, "0", (4, 2), context(dp=2, pp=2)
        )
        assert isinstance(layout, ShardLayout) and layout.global_shape == (4, 2)

    def test_a_shape_that_a_rule_cannot_mean_is_skipped(self):
        path = "decoder.layers.0.mlp.linear_fc1"
        linear, shape = ColumnParallelLinear(), (2, 1, 3)
        run = context(tp=2, gated_linear_unit=True)
        layout = activation(linear, Kind.OUTPUT, "0", shape, run, path=path)
        assert isinstance(layout, NoLayout)
        assert "does not fit output 0 of ColumnParallelLinear" in layout.reason

    @pytest.mark.parametrize("length", [8, 4])
    def test_a_length_that_contradicts_the_run_accuses_the_rule(self, length):
        """Under sequence parallelism 4 of 8 tokens are here; or it was gathered."""
        norm, run = nn.LayerNorm(4), context(tp=2, sp=True)
        layout = activation(
            norm,
            Kind.OUTPUT,
            "0",
            (length, 2, 4),
            run,
            parent=Layer(),
            lengths={"s": 8},
        )
        if length == 4:
            assert isinstance(layout, ShardLayout)
            return
        assert isinstance(layout, NoLayout)
        assert (
            "the layout rule 's[cp:zigzag,sp] b h' does not fit output 0 of LayerNorm "
            "in TransformerLayer, of shape [8, 2, 4]" in layout.reason
        )
        assert "(expected 8, got 16)" in layout.reason
        assert "rules=[Rule(module='LayerNorm'" in layout.reason

    def test_norms_of_one_name_are_told_apart_by_what_they_are_part_of(self):
        run = context(tp=2, sp=True)
        path = "decoder.layers.0.self_attention.q_layernorm"
        shape = (4, 2, 3, 5)
        heads = activation(
            nn.LayerNorm(5), Kind.INPUT, "0", shape, run, path=path, parent=Attention()
        )
        latent = activation(
            nn.LayerNorm(5), Kind.INPUT, "0", (4, 2, 5), run, path=path, parent=Latent()
        )
        assert isinstance(heads, ShardLayout) and isinstance(latent, ShardLayout)
        assert heads.global_shape == (4, 2, 6, 5)
        assert latent.global_shape == (8, 2, 5)

    def test_rules_can_be_added_in_front(self):
        rule = Rule(
            module="MyModule", direction=Direction.OUTPUT, dims="s b heads[tp] d"
        )
        layout = activation(
            class_named("MyModule")(),
            Kind.GRAD_OUTPUT,
            "0",
            (2, 1, 4, 8),
            context(tp=2),
            rules=(rule, *RULES),
        )
        assert isinstance(layout, ShardLayout)
        assert layout.global_shape == (2, 1, 8, 8)

    def test_embeddings_that_cut_the_sequence_are_skipped(self):
        embedding = class_named(
            "VocabParallelEmbedding", reduce_scatter_embeddings=True
        )
        layout = activation(
            embedding(), Kind.OUTPUT, "0", (4, 2, 4), context(tp=2, sp=True)
        )
        assert isinstance(layout, NoLayout) and "another order" in layout.reason


class TestRules:
    def test_an_unknown_axis_is_refused_at_once(self):
        with pytest.raises(LayoutError, match="names an axis that Megatron's mesh"):
            Rule(module="A", direction=Direction.INPUT, dims="s[sequence] b h")

    @pytest.mark.parametrize("both", [True, False])
    def test_a_rule_gives_dims_or_a_reason(self, both):
        dims, skipped = ("s b h", "because") if both else (None, None)
        with pytest.raises(LayoutError, match="either gives dims or says why"):
            Rule(module="A", direction=Direction.INPUT, dims=dims, skipped=skipped)
