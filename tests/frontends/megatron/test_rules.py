"""Layouts of activations by the table of rules, on stand-ins for modules."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from torch import nn  # noqa: E402

from tests.factories.megatron_parts import (  # noqa: E402
    Attention,
    ColumnParallelLinear,
    Latent,
    Layer,
    RowParallelLinear,
    activation,
    class_named,
    context,
)
from ttrace.errors import LayoutError  # noqa: E402
from ttrace.frontends.megatron_parts.rule_table import RULES  # noqa: E402
from ttrace.frontends.megatron_parts.rules import (  # noqa: E402
    Direction,
    Rule,
)
from ttrace.frontends.torch_parts.description import NoLayout  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import ShardLayout  # noqa: E402


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
