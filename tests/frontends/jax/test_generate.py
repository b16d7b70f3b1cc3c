"""The generator in JAX against the one in numpy: equal bits in every sharding."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)

nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
torch = pytest.importorskip("torch")

from tests.factories.jax_processes import run_processes  # noqa: E402
from ttrace.errors import LayoutError, UsageError  # noqa: E402
from ttrace.frontends.jax_generate import generate_array, generate_tree  # noqa: E402
from ttrace.frontends.jax_parts.origins import Origin  # noqa: E402
from ttrace.frontends.torch_initialization import initialize_parameters  # noqa: E402
from ttrace.frontends.torch_parts.description import PlainDescription  # noqa: E402
from ttrace.generate import (  # noqa: E402
    Bell,
    Integers,
    Uniform,
    generate,
    generate_region,
)
from ttrace.ir.layout import Region  # noqa: E402

MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ("dp", "tp"))
DISTRIBUTIONS = [
    Uniform(scale=0.25, offset=1.0),
    Bell(scale=2.0**-5),
    Integers(low=-3, high=50_000),
    Integers(low=-(2**31), high=2**31 - 1),
]


def on(*entries) -> NamedSharding:
    return NamedSharding(MESH, PartitionSpec(*entries))


def check_bits(found: jax.Array, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(found), expected, strict=True)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize(
    ("shape", "sharding"),
    [
        ((8, 16), on("dp", "tp")),
        ((8, 16), on(("tp", "dp"))),
        ((8, 16), on()),
        ((4, 6, 8), on(None, "dp", "tp")),
        ((16,), on("tp")),
        ((7,), SingleDeviceSharding(jax.devices()[3])),
        ((), on()),
        ((0, 8), on(None, "tp")),
    ],
    ids=str,
)
def test_bits_of_numpy(distribution, shape, sharding):
    found = generate_array("a.weight", distribution, shape, sharding, seed=3)
    expected = generate("a.weight", distribution, shape, seed=3)
    if expected.dtype == np.int64:
        expected = expected.astype(np.int32)
    assert found.sharding == sharding and found.shape == shape
    check_bits(found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_that_of_torch(dtype):
    shape = (64, 64)
    found = generate_array("w", Bell(), shape, on("dp"), dtype=dtype)
    rounded = torch.from_numpy(generate("w", Bell(), shape)).to(getattr(torch, dtype))
    bits = rounded.view(torch.int16).numpy()
    np.testing.assert_array_equal(np.asarray(found).view(np.int16), bits)
    assert found.dtype == getattr(ml_dtypes, dtype, dtype)


def test_positions_beyond_32_bits():
    """Rows of a tensor that is much too large to be made."""
    rows, columns = 2**21, 2**13
    region = Region(start=(2**19 - 2, 0), extent=(4, columns))
    expected = generate_region("big", Bell(), region, (rows, columns))
    origin = Origin(
        name="big",
        transform="r c -> r c",
        sizes={"r": rows},
        at={"r": region.start[0]},
    )
    found = generate_array(origin, Bell(), (4, columns), on("dp", "tp"))
    check_bits(found, expected)
    part = Origin(
        name="big", transform="a -> r a", sizes={"r": rows}, at={"r": rows - 1}
    )
    last = Region(start=(rows - 1, 0), extent=(1, columns))
    expected = generate_region("big", Bell(), last, (rows, columns))[0]
    check_bits(generate_array(part, Bell(), (columns,), on("tp")), expected)


def test_strides_beyond_32_bits():
    columns = 2**33
    region = Region(start=(0, 5), extent=(3, 4))
    expected = generate_region("big", Uniform(), region, (3, columns))
    origin = Origin(
        name="big", transform="c r -> r c", sizes={"c": columns}, at={"c": 5}
    )
    check_bits(generate_array(origin, Uniform(), (4, 3), on("tp")), expected.T)


def test_no_device_makes_more_than_its_shard():
    found = generate_array("a", Uniform(), (64, 64), on("dp", "tp"))
    for shard in found.addressable_shards:
        assert shard.data.shape == (32, 16)
        assert shard.data.devices() == {shard.device}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_under_a_mesh_that_the_user_has_set(axis_type):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(axis_type, axis_type))
    sharding = NamedSharding(mesh, PartitionSpec("a", "b"))
    with jax.set_mesh(mesh):
        found = generate_array("w", Bell(), (8, 8), sharding)
        scalar = generate_array("s", Bell(), (), NamedSharding(mesh, PartitionSpec()))
        doubled = found * 2  # the user's mesh holds again
    assert found.sharding == doubled.sharding == sharding
    check_bits(found, generate("w", Bell(), (8, 8)))
    check_bits(scalar, generate("s", Bell(), ()))


def test_one_program_for_parameters_of_one_shape(caplog):
    with jax.log_compiles():
        generate_array("a", Uniform(), (24, 40), on("dp"))
        assert "_make_shards" in caplog.text
        caplog.clear()
        generate_array("b", Uniform(), (24, 40), on("dp"), seed=1)
        assert "_make_shards" not in caplog.text


def test_heads_of_a_fused_matrix_of_stacked_layers():
    """As in a port of GPT-2 that scans over its layers."""
    origin = Origin(
        name="h.{l}.c_attn",
        transform="l d n e -> d (q n e)",
        sizes={"q": 3},
        at={"q": 2},
    )
    found = generate_array(origin, Bell(), (3, 8, 4, 2), on(None, "dp", "tp"))
    fused = [generate(f"h.{layer}.c_attn", Bell(), (8, 24)) for layer in range(3)]
    expected = np.stack([matrix[:, 16:].reshape(8, 4, 2) for matrix in fused])
    check_bits(found, expected)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="out")(nn.Dense(8, name="up")(x))


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(2, 8, rngs=rngs)
        self.out = nnx.Linear(8, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.up(x))


class TorchModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(2, 8)
        self.out = torch.nn.Linear(8, 4)


def origin_for(name: str) -> str | Origin:
    """The names of ``TorchModel``, whose matrices are transposed."""
    module, _, slot = name.rpartition(".")
    if slot == "kernel":
        return Origin(name=f"{module}.weight", transform="i o -> o i")
    return name


def test_models_of_three_frameworks_start_equal():
    theirs = TorchModel()
    initialize_parameters(
        PlainDescription(theirs), lambda named: Bell(scale=0.5), seed=7
    )
    expected = {
        name: parameter.detach().numpy()
        for name, parameter in theirs.named_parameters()
    }
    abstract = jax.eval_shape(LinenModel().init, jax.random.key(0), jnp.zeros((1, 2)))
    shardings = jax.tree.map(lambda leaf: on(*[None] * (leaf.ndim - 1), "tp"), abstract)
    linen = generate_tree(
        abstract,
        lambda name: Bell(scale=0.5),
        shardings=shardings,
        origin_for=origin_for,
        seed=7,
    )["params"]
    model = NnxModel(nnx.Rngs(0))
    state = generate_tree(
        nnx.state(model, nnx.Param),
        lambda name: Bell(scale=0.5),
        shardings=on(),
        origin_for=origin_for,
        seed=7,
    )
    nnx.update(model, state)
    for layer in ("up", "out"):
        ours = getattr(model, layer)
        check_bits(linen[layer]["kernel"], expected[f"{layer}.weight"].T)
        check_bits(linen[layer]["bias"], expected[f"{layer}.bias"])
        check_bits(ours.kernel[...], expected[f"{layer}.weight"].T)
        check_bits(ours.bias[...], expected[f"{layer}.bias"])
    assert linen["up"]["kernel"].sharding == on(None, "tp")
    assert model.up.kernel[...].sharding == on()


def test_leaves_that_carry_their_sharding():
    tree = {"w": jax.ShapeDtypeStruct((8,), jnp.bfloat16, sharding=on("dp"))}
    made = generate_tree(tree, lambda name: Uniform())
    assert made["w"].sharding == on("dp") and made["w"].dtype == jnp.bfloat16
    alone = generate_tree(
        {"w": jax.ShapeDtypeStruct((8,), jnp.float32)}, lambda name: Uniform()
    )
    assert alone["w"].devices() == {jax.devices()[0]}


def test_fractions_in_integers():
    with pytest.raises(UsageError) as error:
        generate_array("steps", Uniform(), (4,), dtype=np.int32)
    assert str(error.value) == (
        "an integer array cannot hold fractions\n"
        "  where:    steps\n"
        "  expected: a floating-point dtype, or the distribution Integers\n"
        "  got:      Uniform(scale=1.0, offset=0.0) as int32\n"
        "  to do:    give the array another dtype or another distribution"
    )


def test_shardings_that_do_not_fit():
    with pytest.raises(LayoutError, match="does not say which part"):
        generate_array("a", Uniform(), (5,), on("dp"))
    mesh = jax.make_mesh((8,), ("dp",), axis_types=(AxisType.Explicit,))
    spec = PartitionSpec(None, unreduced=frozenset({"dp"}))
    with pytest.raises(LayoutError, match="a partial tensor cannot be generated"):
        generate_array("a", Uniform(), (4,), NamedSharding(mesh, spec))


def generate_in_a_process(out: str) -> None:
    """Runs in each of two processes."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("dp", "tp"))
    sharding = NamedSharding(mesh, PartitionSpec("tp", "dp"))
    array = generate_array("a", Bell(), (4, 8), sharding)
    full = generate("a", Bell(), (4, 8))
    for shard in array.addressable_shards:
        check_bits(shard.data, full[shard.index])
    held = np.stack([np.asarray(shard.data) for shard in array.addressable_shards])
    np.save(f"{out}/{jax.process_index()}.npy", held)


def test_two_processes(tmp_path):
    run_processes(__name__, generate_in_a_process.__name__, tmp_path)
    held = [np.load(tmp_path / f"{number}.npy") for number in range(2)]
    assert [shards.shape for shards in held] == [(4, 2, 2)] * 2
    together = np.sort(np.concatenate(held).ravel())
    np.testing.assert_array_equal(together, np.sort(generate("a", Bell(), (32,))))
