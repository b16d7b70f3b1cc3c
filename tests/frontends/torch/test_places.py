"""Which ranks share micro-batches, on meshes of processes that do not exist."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from ttrace.frontends.torch_parts.places import find_place

RANK, WORLD = 5, 8


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=WORLD)
    yield
    dist.destroy_process_group()


def parameter(mesh: DeviceMesh) -> torch.Tensor:
    placements = [Shard(0), *[Replicate()] * (mesh.ndim - 1)]
    return DTensor.from_local(torch.zeros(2), mesh, placements, run_check=False)


def place(parameters: list[torch.Tensor], averaged: list[tuple[int, ...]]):
    return find_place(parameters, averaged, rank=RANK, world_size=WORLD)


def mesh(*shape: int, names: tuple[str, ...]) -> DeviceMesh:
    ranks = torch.arange(WORLD).reshape(shape)
    return DeviceMesh("cpu", ranks, mesh_dim_names=names, _init_backend=True)


def test_processes_without_a_mesh_have_microbatches_of_their_own():
    found = place([torch.zeros(1)], [])
    assert (found.index, found.size, found.model_axes) == (5, 8, ())


def test_the_order_is_that_of_what_averages():
    assert place([], [tuple(reversed(range(8)))]).index == 2


def test_ranks_along_an_axis_that_shards_the_model_share_theirs():
    both = mesh(4, 2, names=("dp", "tp"))
    found = place([parameter(both["tp"])], [(1, 3, 5, 7)])
    assert (found.index, found.size, found.model_axes) == (2, 4, ("tp",))
    assert found.mesh.coords == {"dp": 2, "tp": 1}
    assert found.mesh.uniform_axes == ("tp",)


def test_axes_that_gradients_are_averaged_over_shard_the_data():
    both = mesh(4, 2, names=("replicate", "shard"))
    found = place([parameter(both)], [tuple(range(8))])
    assert (found.index, found.size, found.model_axes) == (5, 8, ())


def test_axes_that_no_parameter_is_on_shard_the_data():
    both = mesh(2, 4, names=("mine", "tp"))
    found = place([parameter(both["tp"])], [])
    assert (found.index, found.size, found.model_axes) == (1, 2, ("tp",))


def test_ranks_of_one_pipeline_share_their_microbatches():
    found = find_place([], [], rank=RANK, world_size=WORLD, pipeline=(4, 5, 6, 7))
    assert (found.index, found.size, found.model_axes) == (1, 2, ())
    assert found.mesh.sizes == {"dp": 2, "pp": 4}
    assert found.mesh.coords == {"dp": 1, "pp": 1}
    assert found.mesh.uniform_axes == ()


def test_pipelines_may_be_columns_of_the_ranks():
    pipeline = (1, 3, 5, 7)
    found = find_place([], [(4, 5)], rank=RANK, world_size=WORLD, pipeline=pipeline)
    assert (found.index, found.size) == (1, 2)
    assert found.mesh.coords == {"dp": 1, "pp": 2}


def test_an_axis_along_a_pipeline_shards_neither_model_nor_data():
    both = mesh(4, 2, names=("pp", "dp"))
    pipeline = (1, 3, 5, 7)
    found = find_place(
        [parameter(both["dp"])],
        [(4, 5)],
        rank=RANK,
        world_size=WORLD,
        pipeline=pipeline,
    )
    assert (found.index, found.size, found.model_axes) == (1, 2, ())
    assert found.mesh.coords == {"pp": 2, "dp": 1}
