"""Layouts of parameters and of their gradients, on stand-ins for modules."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from torch import nn  # noqa: E402

from tests.factories.megatron_parts import (  # noqa: E402
    Attention,
    Block,
    ColumnParallelLinear,
    DeltaNet,
    Indexer,
    Latent,
    Layer,
    MoELayer,
    Prediction,
    Router,
    RowParallelLinear,
    class_named,
    context,
    layout_of,
    owned,
    rows,
)
from ttrace.errors import UsageError  # noqa: E402
from ttrace.frontends.megatron_parts.rule_table import RULES  # noqa: E402
from ttrace.frontends.megatron_parts.rules import (  # noqa: E402
    Direction,
    Rule,
)
from ttrace.frontends.megatron_parts.sharding import (  # noqa: E402
    parameter_layout,
    unmarked_parameters,
)
from ttrace.frontends.torch_parts.description import NoLayout  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import Region, ShardLayout  # noqa: E402


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
