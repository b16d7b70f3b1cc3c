"""Layouts of shardings against what JAX says of arrays that are sharded so."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from tests.factories.jax_processes import run_processes
from ttrace.errors import LayoutError
from ttrace.frontends.jax_parts.record import shardings
from ttrace.frontends.jax_parts.record.shardings import (
    device_layouts,
    local_arrays,
    local_value_layouts,
    mesh_of,
    rank_of,
    run_devices,
)
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import ShardLayout
from ttrace.testing import cut

SHAPE = (8, 16, 8)


def make_mesh(reverse: bool = False, **sizes: int) -> jax.sharding.Mesh:
    devices = np.array(jax.devices())
    devices = devices[::-1] if reverse else devices
    shape = tuple(sizes.values())
    return jax.sharding.Mesh(devices[: np.prod(shape)].reshape(shape), tuple(sizes))


def specs(axes: tuple[str, ...], num_dims: int) -> Iterator[PartitionSpec]:
    """Every way to shard dims over axes, each axis used at most once, in any order."""
    for count in range(len(axes) + 1):
        for order in itertools.permutations(axes, count):
            for dims in itertools.product(range(num_dims), repeat=count):
                if list(dims) == sorted(dims):
                    entries = [
                        tuple(a for a, at in zip(order, dims, strict=True) if at == dim)
                        for dim in range(num_dims)
                    ]
                    yield PartitionSpec(*(entry or None for entry in entries))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def slices_of(layout: ShardLayout) -> tuple[slice, ...]:
    (block,) = layout.blocks
    return tuple(map(slice, block.region.start, block.region.stop))


@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize(
    "mesh",
    [make_mesh(dp=2, cp=2, tp=2), make_mesh(reverse=True, dp=2, tp=4), make_mesh(x=1)],
    ids=str,
)
def test_every_spec_gives_the_parts_that_jax_gives(mesh, num_dims):
    full = numbered(SHAPE[:num_dims])
    for spec in specs(mesh.axis_names, num_dims):
        sharding = NamedSharding(mesh, spec)
        array = jax.device_put(full, sharding)
        layouts = device_layouts(sharding, full.shape)
        assert layouts.keys() == set(mesh.devices.flat)
        for shard in array.addressable_shards:
            layout = layouts[shard.device]
            expected = tuple(
                slice(*part.indices(length)[:2])
                for part, length in zip(shard.index, full.shape, strict=True)
            )
            assert slices_of(layout) == expected
            np.testing.assert_array_equal(np.asarray(shard.data), cut(full, layout))
            place = mesh_of(sharding, shard.device)
            assert layout.mesh == place.name
            # The text for people says the same as the blocks.
            assert parse_dims(layout.dims).lower(full.shape, place) == layout


def test_meshes_are_named_after_axes_sizes_and_devices():
    sharding = NamedSharding(make_mesh(dp=2, tp=4), PartitionSpec())
    place = mesh_of(sharding, jax.devices()[6])
    assert place.name == "dp2_tp4"
    assert (place.sizes, place.coords) == ({"dp": 2, "tp": 4}, {"dp": 1, "tp": 2})
    turned = NamedSharding(make_mesh(reverse=True, dp=2, tp=4), PartitionSpec())
    place = mesh_of(turned, jax.devices()[6])
    assert place.name.startswith("dp2_tp4_")
    assert place.coords == {"dp": 0, "tp": 1}
    part = NamedSharding(make_mesh(dp=2), PartitionSpec())
    assert mesh_of(part, jax.devices()[1]).name.startswith("dp2_")
    with pytest.raises(LayoutError, match="lies outside the mesh of a sharding"):
        mesh_of(part, jax.devices()[2])
    scalar = NamedSharding(jax.sharding.Mesh(np.array(jax.devices()[0]), ()), part.spec)
    assert mesh_of(scalar, jax.devices()[0]).name.startswith("mesh_")


def test_a_single_device_is_a_place_among_all():
    device = jax.devices()[3]
    sharding = SingleDeviceSharding(device)
    ((held_by, layout),) = device_layouts(sharding, (2, 3)).items()
    assert held_by == device and rank_of(device) == 3
    assert slices_of(layout) == (slice(0, 2), slice(0, 3))
    place = mesh_of(sharding, device)
    assert layout.mesh == place.name == "devices"
    assert (place.sizes, place.coords) == ({"device": 8}, {"device": 3})
    (scalar,) = device_layouts(sharding, ()).values()
    assert scalar.global_shape == scalar.local_shape == ()


def test_shardings_of_the_compiler():
    impls = pytest.importorskip("jax._src.sharding_impls")
    named = NamedSharding(make_mesh(dp=2, tp=4), PartitionSpec(None, "dp"))
    sharding = impls.GSPMDSharding(tuple(jax.devices()), named._to_xla_hlo_sharding(2))
    layouts, expected = (device_layouts(s, (4, 6)) for s in (sharding, named))
    for device, layout in layouts.items():
        assert layout.blocks == expected[device].blocks
        assert layout.mesh == mesh_of(sharding, device).name == "devices"


def test_empty_arrays():
    sharding = NamedSharding(make_mesh(dp=2, tp=4), PartitionSpec("dp", "tp"))
    array = jax.device_put(np.zeros((0, 8), np.float32), sharding)
    layouts = device_layouts(sharding, (0, 8))
    for device, part in local_arrays(array).items():
        assert layouts[device].local_shape == part.shape == (0, 2)


def test_a_dim_that_does_not_divide():
    sharding = NamedSharding(make_mesh(dp=2), PartitionSpec("dp"))
    with pytest.raises(LayoutError) as error:
        device_layouts(sharding, (5, 2))
    text = str(error.value)
    assert text.startswith(
        "JAX does not say which part of an array each device holds\n  where:    Named"
    )
    assert "got:      shape [5, 2]: " in text
    assert "array axis 0 is partitioned 2 times" in text


@pytest.mark.parametrize("rows", ["a", None])
def test_arrays_that_must_still_be_summed(rows):
    explicit = (AxisType.Explicit, AxisType.Explicit)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=explicit)
    left, right = numbered((4, 8)), numbered((8, 4))
    product = jax.jit(
        lambda x, y: jnp.dot(
            x, y, out_sharding=PartitionSpec(rows, None, unreduced=frozenset({"b"}))
        )
    )
    with jax.set_mesh(mesh):
        array = product(
            jax.device_put(left, NamedSharding(mesh, PartitionSpec(rows, "b"))),
            jax.device_put(right, NamedSharding(mesh, PartitionSpec("b"))),
        )
    layouts = device_layouts(array.sharding, array.shape)
    parts = local_arrays(array)
    assert parts.keys() == layouts.keys()
    total, seen = np.zeros((4, 4), np.float32), set()
    for device, part in parts.items():
        layout, place = layouts[device], mesh_of(array.sharding, device)
        assert layout.partial_axes == ("b",)
        assert layout.dims == f"d0{'[a]' if rows else ''} d1 partial[b]"
        if (key := (layout.blocks, place.coords["b"])) not in seen:
            seen.add(key)
            total[slices_of(layout)] += np.asarray(part)
    np.testing.assert_array_equal(total, left @ right)


def test_axes_with_names_that_no_dims_text_can_hold():
    sharding = NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()), ("data axis",)),
        PartitionSpec("data axis"),
    )
    layout = device_layouts(sharding, (8,))[jax.devices()[2]]
    assert layout.dims == "" and slices_of(layout) == (slice(2, 3),)


def test_abstract_meshes_have_no_layout():
    sharding = NamedSharding(
        jax.sharding.AbstractMesh((2,), ("x",)), PartitionSpec("x")
    )
    with pytest.raises(LayoutError, match="a sharding without devices has no layout"):
        device_layouts(sharding, (4,))


def test_devices_that_are_none_of_the_run(monkeypatch):
    others = tuple(jax.devices()[:4])
    monkeypatch.setattr(shardings, "run_devices", lambda: others)
    with pytest.raises(LayoutError) as error:
        device_layouts(SingleDeviceSharding(jax.devices()[7]), (41,))
    assert str(error.value) == (
        "an array lies on a device that is none of the run's\n"
        "  expected: one of the 4 devices of cpu\n"
        f"  got:      {jax.devices()[7]}\n"
        "  to do:    move the array to the default backend, or leave it out with a "
        "filter"
    )


# Values that were local to a shard_map.

X = numbered((4, 8))


def stacked(function, mesh, in_specs, axes, **options) -> jax.Array:
    """Local values as they leave the program: one per place on the axes."""

    def local(x):
        return function(x).reshape((1,) * len(axes) + function(x).shape)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(*axes), **options
    )
    return jax.jit(mapped)(X)


def check_assembled(text, array, axes, expected):
    """Puts a logical tensor together from local values, sums over partial axes."""
    layouts = local_value_layouts(parse_dims(text), array.sharding, array.shape, axes)
    total, seen = np.zeros_like(expected), set()
    for device, part in local_arrays(array).items():
        layout = layouts[device]
        assert layout.global_shape == expected.shape
        local = np.asarray(part).reshape(layout.local_shape)
        place = mesh_of(array.sharding, device)
        partial = tuple(place.coords[axis] for axis in layout.partial_axes)
        for block in layout.blocks:
            key = (block.region, partial)
            here = tuple(
                slice(start, start + extent)
                for start, extent in zip(
                    block.local_start, block.region.extent, strict=True
                )
            )
            if key not in seen:  # replicas are not summed
                seen.add(key)
                within = tuple(map(slice, block.region.start, block.region.stop))
                total[within] += local[here]
    np.testing.assert_array_equal(total, expected)
    return layouts


def test_local_values_without_a_text_are_one_per_place():
    mesh = make_mesh(dp=2, tp=4)
    array = stacked(lambda x: x * 2, mesh, PartitionSpec("dp", "tp"), ("dp", "tp"))
    layout = device_layouts(array.sharding, array.shape)[jax.devices()[6]]
    assert layout.global_shape == (2, 4, 2, 2)
    assert slices_of(layout) == (slice(1, 2), slice(2, 3), slice(0, 2), slice(0, 2))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("b[dp] h[tp]", PartitionSpec("dp", "tp")),
        ("b[tp] h[dp]", PartitionSpec("tp", "dp")),
        ("b[dp,tp] h", PartitionSpec(("dp", "tp"))),
    ],
)
def test_local_values_that_are_parts(text, spec):
    array = stacked(lambda x: x * 2, make_mesh(dp=2, tp=2), spec, ("dp", "tp"))
    check_assembled(text, array, ("dp", "tp"), X * 2)


def test_local_values_in_an_order_that_no_spec_says():
    def rows(x):  # 0 and 2 on the first place of tp, 1 and 3 on the second
        mine = jax.lax.axis_index("tp") + jnp.array([0, 2])
        return jax.lax.pcast(x[mine], "dp", to="varying")

    array = stacked(rows, make_mesh(dp=2, tp=2), PartitionSpec(), ("dp", "tp"))
    layouts = check_assembled("b[tp:parts(2)] h", array, ("dp", "tp"), X)
    assert {len(layout.blocks) for layout in layouts.values()} == {2}


def test_local_values_that_are_addends():
    array = stacked(
        lambda x: x.sum(1, keepdims=True),
        make_mesh(dp=2, tp=4),
        PartitionSpec("dp", "tp"),
        ("dp", "tp"),
    )
    layouts = check_assembled(
        "b[dp] 1 partial[tp]", array, ("dp", "tp"), X.sum(1, keepdims=True)
    )
    assert {layout.partial_axes for layout in layouts.values()} == {("tp",)}


def test_axes_left_to_the_compiler_cut_local_values_further():
    mesh = make_mesh(dp=2, tp=4)
    mapped = jax.shard_map(
        lambda x: (x * 2)[None],
        mesh=mesh,
        in_specs=PartitionSpec("dp"),
        out_specs=PartitionSpec("dp"),
        axis_names={"dp"},
    )
    array = jax.jit(
        mapped, out_shardings=NamedSharding(mesh, PartitionSpec("dp", None, "tp"))
    )(X)
    layouts = check_assembled("b[dp] h", array, ("dp",), X * 2)
    assert {layout.local_shape for layout in layouts.values()} == {(2, 2)}


def test_a_text_cannot_cut_over_axes_that_tell_nothing_apart():
    array = stacked(
        lambda x: x * 2, make_mesh(dp=2, tp=4), PartitionSpec("dp"), ("dp",)
    )
    with pytest.raises(LayoutError) as error:
        local_value_layouts(
            parse_dims("b[dp] h[tp]"), array.sharding, array.shape, ("dp",)
        )
    assert str(error.value) == (
        "a dims text shards or sums over an axis that tells no values apart\n"
        "  where:    dims b[dp] h[tp]\n"
        "  expected: one of dp: over the others shard_map has the same value "
        "everywhere\n"
        "  got:      tp\n"
        "  to do:    leave the axis out of the dims text"
    )


def test_values_that_moved_away_from_their_place():
    sharding = NamedSharding(make_mesh(dp=2), PartitionSpec(None))
    with pytest.raises(LayoutError) as error:
        local_value_layouts(parse_dims("b[dp]"), sharding, (2, 4), ("dp",))
    assert "does not hold the value of its own place" in str(error.value)
    assert "expected: place [0]\n  got:      places [0], [2] of them" in str(
        error.value
    )


# Two processes with four devices each.


def describe_devices(out: str) -> None:
    """Runs in each process: what it says of all devices, and holds on its own."""
    found = {}
    for name, sharding, shape in distributed_cases():
        full = numbered(shape)
        array = jax.make_array_from_callback(shape, sharding, full.__getitem__)
        layouts = device_layouts(sharding, shape)
        found[name] = {
            "layouts": {rank_of(d): layout.to_json() for d, layout in layouts.items()},
            "meshes": {rank_of(d): mesh_of(sharding, d).to_json() for d in layouts},
            "held": {
                rank_of(d): np.asarray(part).tolist()
                for d, part in local_arrays(array).items()
            },
        }
    path = Path(out) / f"{jax.process_index()}.json"
    path.write_text(json.dumps(found))


def distributed_cases() -> list:
    mesh = jax.sharding.Mesh(np.array(run_devices()).reshape(2, 4), ("dp", "tp"))
    return [
        ("both", NamedSharding(mesh, PartitionSpec("tp", "dp")), (8, 4)),
        ("across", NamedSharding(mesh, PartitionSpec("dp")), (8, 4)),
        ("replicas", NamedSharding(mesh, PartitionSpec()), (3,)),
    ]


def test_two_processes_agree_on_all_devices(tmp_path):
    run_processes(__name__, describe_devices.__name__, tmp_path)
    first, second = (
        json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)
    )
    for name, sharding, shape in distributed_cases():  # on this process's 8 devices
        full = numbered(shape)
        layouts = device_layouts(sharding, shape)
        assert first[name]["layouts"] == second[name]["layouts"]
        assert first[name]["meshes"] == second[name]["meshes"]
        assert first[name]["held"].keys() == {"0", "1", "2", "3"}
        assert second[name]["held"].keys() == {"4", "5", "6", "7"}
        held = first[name]["held"] | second[name]["held"]
        for device, layout in layouts.items():
            rank = str(rank_of(device))
            assert ShardLayout.from_json(first[name]["layouts"][rank]) == layout
            assert first[name]["meshes"][rank] == mesh_of(sharding, device).to_json()
            np.testing.assert_array_equal(held[rank], cut(full, layout))
