"""Checkpoints that Orbax itself wrote."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.paths import ROOT

ocp = pytest.importorskip("orbax.checkpoint")
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

from flax.training.train_state import TrainState  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from tests.factories.checkpoint_files import check_weights, held_arrays  # noqa: E402
from ttrace.checkpoints.checkpoint_trace import CheckpointTrace  # noqa: E402
from ttrace.errors import CheckpointError  # noqa: E402
from ttrace.frontends.jax_parts import checkpoint_reader  # noqa: E402
from ttrace.frontends.jax_parts.checkpoint_reader import read_checkpoint  # noqa: E402

MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ("dp", "tp"))
KERNEL = np.arange(64, dtype=np.float32).reshape(8, 8)
BIAS = np.linspace(-1, 1, 8).astype(jnp.bfloat16)
PARAMETERS = {"fc.kernel": KERNEL, "fc.bias": BIAS}


def sharded(array: np.ndarray, *entries) -> jax.Array:
    return jax.device_put(array, NamedSharding(MESH, PartitionSpec(*entries)))


def train_state() -> TrainState:
    params = {"fc": {"kernel": sharded(KERNEL, "dp", "tp"), "bias": sharded(BIAS)}}
    return TrainState.create(apply_fn=lambda x: x, params=params, tx=optax.adamw(1e-3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "standard", train_state())
    with ocp.CheckpointManager(folder / "manager") as manager:
        for step in (3, 5):
            manager.save(step, args=ocp.args.StandardSave(train_state()))
    with ocp.CheckpointManager(folder / "items") as manager:
        manager.save(
            1,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(train_state()),
                data=ocp.args.JsonSave({"position": 3}),
            ),
        )
        manager.save(
            2,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(train_state()),
                other=ocp.args.StandardSave({"x": jnp.ones(2)}),
            ),
        )
    return folder


def check_train_state(path) -> None:
    trace = CheckpointTrace(read_checkpoint(path))
    held = held_arrays(trace)
    moments = {
        f"step0/fc/optimizer_state/{name}.{moment}": array
        for name, array in (("kernel", KERNEL), ("bias", BIAS))
        for moment in ("mu", "nu")
    }
    for id_, array in moments.items():
        np.testing.assert_array_equal(held.pop(id_), np.zeros_like(array), strict=True)
    assert held.keys() == {"step0/fc/param/kernel", "step0/fc/param/bias"}
    np.testing.assert_array_equal(held["step0/fc/param/kernel"], KERNEL, strict=True)
    np.testing.assert_array_equal(held["step0/fc/param/bias"], BIAS, strict=True)
    (skipped,) = trace.info.skipped.values()
    assert skipped.reason.startswith("opt_state/0/count of the checkpoint")


@pytest.mark.parametrize(
    "name", ["standard", "manager/5", "manager/5/default", "items/1"]
)
def test_a_train_state(saved, name):
    check_train_state(saved / name)


def test_files_of_arrays_of_their_own(tmp_path):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(
            tmp_path / "x", {"fc": {"kernel": sharded(KERNEL, "tp"), "bias": BIAS}}
        )
    check_weights(CheckpointTrace(read_checkpoint(tmp_path / "x")), PARAMETERS)


def test_zarr3(tmp_path):
    handler = ocp.PyTreeCheckpointHandler(use_zarr3=True)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(
            tmp_path / "x", {"fc": {"kernel": sharded(KERNEL, "tp"), "bias": BIAS}}
        )
    check_weights(CheckpointTrace(read_checkpoint(tmp_path / "x")), PARAMETERS)


def test_the_state_of_an_nnx_model(tmp_path):
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", nnx.state(model, nnx.Param))
    trace = CheckpointTrace(read_checkpoint(tmp_path / "x"))
    expected = {
        "kernel": np.asarray(model.kernel[...]),
        "bias": np.asarray(model.bias[...]),
    }
    check_weights(trace, expected)


def test_large_arrays_are_read_as_they_were_sharded(saved, monkeypatch):
    monkeypatch.setattr(checkpoint_reader, "_WHOLE_BYTES", 100)
    trace = CheckpointTrace(read_checkpoint(saved / "standard"))
    by_name = {str(id_): record for id_, record in trace.info.tensors.items()}
    shards = by_name["step0/fc/param/kernel"].shards
    assert {shard.layout.local_shape for shard in shards} == {(4, 2)}
    assert len(shards) == 8 == trace.info.ranks[0].world_size
    assert len(by_name["step0/fc/param/bias"].shards) == 1
    held = held_arrays(trace)
    np.testing.assert_array_equal(held["step0/fc/param/kernel"], KERNEL)


def test_uneven_chunks():
    chunks = list(checkpoint_reader._chunks((5, 4), (2, None)))
    assert chunks == [((0, 0), (2, 4)), ((2, 0), (2, 4)), ((4, 0), (1, 4))]


def test_a_folder_of_steps(saved):
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(saved / "manager")
    assert str(error.value) == (
        "not the folder of one saved tree of Orbax\n"
        f"  where:    {saved}/manager\n"
        "  expected: a folder that holds _METADATA\n"
        "  got:      folders 3, 5\n"
        f"  to do:    give one of them, e.g. {saved}/manager/5"
    )


def test_a_step_with_several_trees(saved):
    with pytest.raises(CheckpointError, match="got:      folders other, state"):
        read_checkpoint(saved / "items" / "2")


def test_a_folder_of_an_old_format(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path)
    assert str(error.value).endswith(
        "  got:      none in it\n"
        "  to do:    save it with StandardCheckpointer or PyTreeCheckpointer, without "
        "the formats of old versions"
    )


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        json.dumps({"tree_metadata": {"a": {"key_metadata": 3}}}),
    ],
)
def test_descriptions_that_make_no_sense(tmp_path, text):
    (tmp_path / "_METADATA").write_text(text)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path)
    assert str(error.value).startswith(
        "the description of an Orbax checkpoint makes no sense\n"
        f"  where:    {tmp_path}/_METADATA\n"
    )


def test_arrays_that_are_missing_or_damaged(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", {"fc": {"kernel": sharded(KERNEL, "dp")}})
    trace = CheckpointTrace(read_checkpoint(tmp_path / "x"))
    (record,) = trace.info.tensors.values()
    for file in (tmp_path / "x").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        trace.load(record.shards[0])
    assert str(error.value).startswith(
        "an array of an Orbax checkpoint cannot be read\n"
        f"  where:    fc/kernel, {tmp_path}/x\n"
    )
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "x")


def test_a_common_start_for_runs_in_any_sharding(saved):
    """What one run saved, another one restores in its own sharding."""
    other = Mesh(np.array(jax.devices()[:4]), ("x",))

    def placed(leaf):
        spec = PartitionSpec("x") if leaf.ndim == 2 else PartitionSpec()
        sharding = NamedSharding(other, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    target = jax.tree.map(placed, jax.eval_shape(train_state))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(saved / "standard", target)
    kernel = restored.params["fc"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 8)}
    np.testing.assert_array_equal(kernel, KERNEL)
    np.testing.assert_array_equal(restored.params["fc"]["bias"], BIAS)


@pytest.fixture(scope="module")
def original_and_port(tmp_path_factory):
    """A Llama as transformers holds it, and its port with the layers in one stack."""
    from ttrace.examples.jax_port.arguments import model_config, parse_jax_arguments
    from ttrace.examples.jax_port.parameters import initial_parameters
    from ttrace.examples.jax_port.training import build_training

    folder = tmp_path_factory.mktemp("llama")
    args = parse_jax_arguments(
        "--model llama --flavor nnx --layout scan_remat --mesh 2x4".split()
    )
    original = initial_parameters(model_config(args))
    save_file(original, folder / "original.safetensors")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "port", build_training(args).parameters())
    return folder


@pytest.mark.parametrize("made", ["by hand", "proposed"])
def test_a_port_against_its_original(original_and_port, tmp_path, ttrace, made):
    files = (original_and_port / "original.safetensors", original_and_port / "port")
    map_file = ROOT / "examples" / "jax_port" / "maps" / "llama_nnx_stacked.toml"
    if made == "proposed":
        map_file = tmp_path / "map.toml"
        assert ttrace("map", *files, "--out", map_file).code == 0
    options = ("--map", map_file, "--backend", "numpy")
    answer = ttrace("compare", *files, *options)
    assert answer.code == 0, answer.out + answer.err
    assert "21 passed, 0 failed, 0 unmatched, 0 skipped of 21 tensors" in answer.out


def test_a_port_with_a_matrix_transposed(original_and_port, tmp_path, ttrace):
    """The square one of the attention's output, which every shape lets through."""
    original = original_and_port / "original.safetensors"
    key = "model.layers.1.self_attn.o_proj.weight"
    weights = load_file(original)
    assert weights[key].shape == (64, 64)
    weights[key] = weights[key].T.copy()
    save_file(weights, tmp_path / "wrong.safetensors")
    map_file = ROOT / "examples" / "jax_port" / "maps" / "llama_nnx_stacked.toml"
    answer = ttrace(
        *("compare", tmp_path / "wrong.safetensors", original_and_port / "port"),
        *("--map", map_file, "--backend", "numpy"),
    )
    assert answer.code == 1
    assert "param weight of model.layers.1.self_attn.o_proj" in answer.out
    assert "20 passed, 1 failed" in answer.out
