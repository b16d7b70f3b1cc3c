import jax
import jax.numpy as jnp
import pytest

from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId

nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")


@pytest.mark.parametrize(
    ("segments", "name"),
    [
        (("params", "h_0", "attn", "kernel"), ("h_0.attn", "kernel")),
        (("params", "params", "fc", "bias"), ("fc", "bias")),
        (("blocks", "0", "norm", "scale", "value"), ("blocks.0.norm", "scale")),
        (("kernel",), ("@root", "kernel")),
        (("value",), ("@root", "value")),
        (("params",), ("@root", "params")),
        ((), ("@root", "_")),
        (("a/b", "c d", ""), ("a_b.c_d", "_")),
    ],
)
def test_names(segments, name):
    assert parameter_name(segments) == name
    module, slot = name
    TensorId(step=0, module=module, kind=Kind.PARAM, slot=slot)


def test_paths_of_all_kinds_of_keys():
    path = (
        jax.tree_util.SequenceKey(1),
        jax.tree_util.DictKey("mask"),
        jax.tree_util.GetAttrKey("value"),
        jax.tree_util.FlattenedIndexKey(0),
    )
    assert path_segments(path) == ("1", "mask", "value", "0")
    assert path_segments(("other",)) == ("other",)


def names_of(tree) -> set[tuple[str, str]]:
    return {
        parameter_name(path_segments(path))
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_linen_with_partitioned_parameters():
    kernel_init = nn.with_partitioning(nn.initializers.zeros, ("in", "out"))
    model = nn.Dense(3, kernel_init=kernel_init)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2)))
    assert names_of(variables) == {("@root", "kernel"), ("@root", "bias")}


class Blocks(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(2, 2, rngs=rngs)])


def test_nnx_models_and_their_states():
    model = nnx.eval_shape(lambda: Blocks(nnx.Rngs(0)))
    expected = {("blocks.0", "kernel"), ("blocks.0", "bias")}
    assert names_of(nnx.state(model, nnx.Param)) == expected
    assert names_of(model) == expected
