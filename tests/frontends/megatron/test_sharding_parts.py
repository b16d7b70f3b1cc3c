"""Layouts of parameters that are sharded part by part, or by expert."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from torch import nn  # noqa: E402

from tests.factories.megatron_parts import (  # noqa: E402
    ColumnParallelLinear,
    DeltaNet,
    Layer,
    activation,
    context,
    layout_of,
    owned,
    rows,
)
from ttrace.frontends.megatron_parts.names import (  # noqa: E402
    OwnedParameter,
)
from ttrace.frontends.megatron_parts.sharding import (  # noqa: E402
    parameter_layout,
)
from ttrace.frontends.torch_parts.description import NoLayout  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import ShardLayout  # noqa: E402


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
