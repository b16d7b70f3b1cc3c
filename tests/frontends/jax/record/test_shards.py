"""Parts of arrays on eight devices: what each rank holds, against the whole array."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ttrace.frontends.jax_parts.harvest.captured import Part
from ttrace.frontends.jax_parts.record.shards import HostShards, RankShard, meshes_of
from ttrace.ir.dims_text import parse_dims

VALUES = np.arange(2 * 4 * 8 * 8, dtype=np.float32).reshape(2, 4, 8, 8)


def put(*spec):
    mesh = jax.make_mesh((2, 4), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2)
    return jax.device_put(VALUES, NamedSharding(mesh, PartitionSpec(*spec)))


def check(shards: dict[int, RankShard], expected: np.ndarray) -> None:
    """Every shard holds what its layout says, and together they hold all."""
    seen = np.zeros(expected.shape, bool)
    for shard in shards.values():
        (block,) = shard.layout.blocks
        where = tuple(map(slice, block.region.start, block.region.stop))
        assert shard.layout.global_shape == expected.shape
        np.testing.assert_array_equal(shard.array, expected[where])
        seen[where] = True
    assert seen.all()


@pytest.mark.parametrize(
    ("spec", "num_ranks", "dims"),
    [
        ((None, None, "dp", "tp"), 8, "d0[dp] d1[tp]"),
        ((None, None, None, ("dp", "tp")), 8, "d0 d1[dp,tp]"),
        (("dp", None, "tp"), 4, "d0[tp] d1"),  # a pipeline: iterations are cut
        (("dp", "tp"), 1, "d0 d1"),
    ],
)
def test_an_iteration_is_held_by_the_ranks_that_have_it(spec, num_ranks, dims):
    array = put(*spec)
    shards = HostShards()
    for outer, inner in np.ndindex(2, 4):
        found = shards.of(Part(array=array, index=(int(outer), int(inner))))
        assert len(found) == num_ranks
        assert {shard.layout.dims for shard in found.values()} == {dims}
        check(dict(found), VALUES[outer, inner])


def test_values_of_devices_have_their_axes_in_front():
    found = HostShards().of(
        Part(
            array=put("dp", "tp"),
            index=(slice(None), slice(None)),
            axes=("dp", "tp"),
        )
    )
    check(dict(found), VALUES)
    axes = {shard.layout.device_axes for shard in found.values()}
    assert axes == {("dp", "tp")}


def test_the_value_of_the_only_device_is_the_logical_one():
    mesh = jax.make_mesh(
        (1, 1),
        ("dp", "tp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:1],
    )
    stacked = VALUES.reshape(2, 1, 1, 4, 64)
    array = jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(None, "dp")))
    for iteration in range(2):
        index = (iteration, slice(None), slice(None))
        found = HostShards().of(Part(array=array, index=index, axes=("dp", "tp")))
        check(dict(found), stacked[iteration, 0, 0])
        assert {shard.layout.device_axes for shard in found.values()} == {()}


def test_a_tiling_does_so_too_and_dims_text_comes_first():
    array, index = put("dp", "tp"), (slice(None), slice(None))
    part = Part(array=array, index=index, axes=("dp", "tp"))
    right = np.concatenate([np.concatenate([*row], axis=1) for row in VALUES], axis=0)
    check(dict(HostShards().of(part, tiling=("dp", "tp"))), right)
    turned = np.concatenate([np.concatenate([*row], axis=0) for row in VALUES], axis=1)
    dims = parse_dims("a[tp] b[dp]")
    check(dict(HostShards().of(part, dims, tiling=("dp", "tp"))), turned)
    both = HostShards().of(part, tiling=(None, ("tp", "dp")))
    assert {shard.layout.dims for shard in both.values()} == {"d0 d1[tp,dp]"}


def test_dims_text_makes_a_tensor_of_the_values_of_devices():
    found = HostShards().of(
        Part(
            array=put("dp", "tp"),
            index=(slice(None), slice(None)),
            axes=("dp", "tp"),
        ),
        parse_dims("a[dp] b[tp]"),
    )
    check(
        dict(found),
        np.concatenate([np.concatenate([*row], axis=1) for row in VALUES], axis=0),
    )


def test_copies_do_not_change_with_the_arrays_of_the_program():
    array = jax.numpy.zeros(4)
    (shard,) = HostShards().of(Part(array=array, index=())).values()
    array.delete()
    np.testing.assert_array_equal(shard.array, np.zeros(4))


def test_meshes_are_named_once_for_every_rank():
    found = meshes_of([put("dp"), put(None, "tp"), jax.numpy.zeros(3)])
    assert sorted(mesh.name for mesh in found[0]) == ["devices", "dp2_tp4"]
    (mesh,) = found[6]
    assert mesh.coords == {"dp": 1, "tp": 2}


@pytest.mark.parametrize("spec", [(None, None, "dp", "tp"), ("dp", None, "tp"), ()])
def test_an_array_as_what_was_written_into_its_parts_makes_it(spec):
    array, expected = put(*spec), VALUES.copy()
    shards = HostShards()
    for at in ((0, 1), (1, 3)):
        expected[at] = -VALUES[at]
        for shard in shards.of(Part(array=array, index=at)).values():
            shard.array[...] *= -1
    made = shards.whole(array)
    assert made.sharding == array.sharding
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(array, VALUES)


def test_an_array_that_jax_may_place_stays_one():
    scalar = jax.numpy.float32(3) + 1
    shards = HostShards()
    (shard,) = shards.of(Part(array=scalar, index=())).values()
    shard.array[...] = 7
    assert isinstance(shards.whole(scalar), np.ndarray) and shards.whole(scalar) == 7
