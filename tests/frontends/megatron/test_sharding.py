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
    activation_layout,
)
from ttrace.frontends.megatron_parts.sharding import parameter_layout  # noqa: E402
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
    **attributes,
) -> OwnedParameter:
    """A parameter; ``dim`` is where Megatron says that it is cut."""
    parameter = nn.Parameter(torch.zeros(shape))
    if dim is not None:
        attributes |= {"tensor_model_parallel": True, "partition_dim": dim}
    for name, value in attributes.items():
        setattr(parameter, name, value)
    return OwnedParameter(
        named=NamedParameter(module=path, slot=slot, parameter=parameter),
        owner=CanonicalModule(path=path, module=owner, in_experts=in_experts),
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

    def test_a_parallel_weight_without_marks_is_an_error(self):
        weight = owned(ColumnParallelLinear(), (4, 8))
        with pytest.raises(UsageError) as caught:
            parameter_layout(weight, Kind.PARAM, context(tp=2))
        assert "does not say how it is cut" in str(caught.value)
        assert "decoder.layers.0.mlp.linear_fc1.weight" in str(caught.value)
        assert "perform_initialization=True" in str(caught.value)

    def test_the_same_weight_is_whole_without_tensor_parallelism(self):
        weight = owned(ColumnParallelLinear(), (4, 8))
        assert layout_of(weight, Kind.PARAM, context()).global_shape == (4, 8)

    def test_grouped_experts_are_skipped_with_a_reason(self):
        weight = owned(class_named("TEColumnParallelGroupedLinear")(), (4, 8))
        layout = parameter_layout(weight, Kind.PARAM, context())
        assert isinstance(layout, NoLayout) and "grouped" in layout.reason


_SEQUENCE_CUT = [
    (nn.LayerNorm(4), "decoder.final_layernorm", "weight", {}),
    (nn.RMSNorm(4), "decoder.layers.0.input_layernorm", "weight", {}),
    (Router(), "decoder.layers.0.mlp.router", "weight", {}),
    (RowParallelLinear(), "decoder.layers.0.mlp.linear_fc2", "bias", {}),
    (
        class_named("TELayerNormColumnParallelLinear")(),
        "decoder.layers.0.mlp.linear_fc1",
        "layer_norm_weight",
        {},
    ),
]


class TestGradientsOfOneMicroBatch:
    @pytest.mark.parametrize(("owner", "path", "slot", "marks"), _SEQUENCE_CUT)
    @pytest.mark.parametrize("sequence_parallel_mark", [True, False])
    def test_where_the_sequence_is_cut_they_are_shares(
        self, owner, path, slot, marks, sequence_parallel_mark
    ):
        # Whether Megatron marked the parameter is what a bug gets wrong.
        parameter = owned(
            owner, (4,), path, slot=slot, sequence_parallel=sequence_parallel_mark
        )
        run = context(tp=2, sp=True)
        assert layout_of(parameter, Kind.PARAM_GRAD, run).partial_axes == ("tp",)
        for kind in (Kind.PARAM, Kind.MAIN_GRAD, Kind.UPDATED_PARAM):
            assert layout_of(parameter, kind, run).partial_axes == ()

    @pytest.mark.parametrize(("owner", "path", "slot", "marks"), _SEQUENCE_CUT)
    def test_without_sequence_parallelism_they_are_replicas(
        self, owner, path, slot, marks
    ):
        parameter = owned(owner, (4,), path, slot=slot)
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
        weight = owned(nn.LayerNorm(4), (4,), path)
        layout = layout_of(weight, Kind.PARAM_GRAD, context(tp=2, sp=sp))
        assert layout.partial_axes == ("tp",)

    def test_norms_of_shared_heads_are_shares_too(self):
        """Every rank has the gradient that comes from its own queries."""
        path = "decoder.layers.0.self_attention.k_layernorm"
        weight = owned(nn.LayerNorm(4), (4,), path)
        run = context(tp=2, num_query_groups=1)
        assert layout_of(weight, Kind.PARAM_GRAD, run).partial_axes == ("tp",)

    @pytest.mark.parametrize("sp", [True, False])
    def test_where_the_sequence_is_cut_over_cp_all_are_shares(self, sp):
        run = context(tp=2, cp=2, sp=sp)
        weight = owned(ColumnParallelLinear(), (4, 8), dim=0)
        layout = layout_of(weight, Kind.PARAM_GRAD, run)
        assert (layout.partial_axes, layout.num_partials) == (("cp",), None)
        norm = owned(nn.LayerNorm(4), (4,), path="decoder.final_layernorm")
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

    def test_of_unknown_modules_they_are_skipped_where_it_matters(self):
        weight = owned(class_named("MyAdapter")(), (4,), "decoder.adapter")
        run = context(tp=2, sp=True)
        layout = parameter_layout(weight, Kind.PARAM_GRAD, run)
        assert isinstance(layout, NoLayout) and "MyAdapter" in layout.reason
        assert layout_of(weight, Kind.MAIN_GRAD, run).global_shape == (4,)
        assert layout_of(weight, Kind.PARAM_GRAD, context(dp=2)).partial_axes == ()


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
    rules: tuple[Rule, ...] = RULES,
) -> ShardLayout | NoLayout:
    return activation_layout(rules, path, module, kind, slot, shape, run)


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
        layout = activation(
            class_named("MyModule")(), Kind.OUTPUT, "0", (4, 2), context(tp=2)
        )
        assert isinstance(layout, NoLayout)
        assert "no layout rule for MyModule output 0 of shape [4, 2]" in layout.reason
        assert "rules=[Rule(module='MyModule'" in layout.reason

    def test_a_shape_that_a_rule_cannot_mean_is_skipped(self):
        run = context(tp=2, gated_linear_unit=True)
        layout = activation(
            ColumnParallelLinear(),
            Kind.OUTPUT,
            "0",
            (2, 1, 3),
            run,
            path="decoder.layers.0.mlp.linear_fc1",
        )
        assert isinstance(layout, NoLayout)
        assert "does not fit ColumnParallelLinear output 0" in layout.reason

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
