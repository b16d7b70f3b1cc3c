"""Placements as blocks, exhaustively, against torch's own chunks; and meshes."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from ttrace.frontends.torch_parts.dtensor import held_runs, layout_of
from ttrace.frontends.torch_parts.local_tensor import NoLayout
from ttrace.ir.layout import Mesh, ShardLayout

MESHES = [(1,), (2,), (3,), (4,), (2, 2), (1, 3), (2, 3)]


@pytest.fixture
def rank_1_of_4() -> Iterator[None]:
    """A process that can say where it is, and not communicate."""
    torch.distributed.init_process_group(
        "fake", rank=1, world_size=4, store=FakeStore()
    )
    yield
    torch.distributed.destroy_process_group()


def placed(mesh: DeviceMesh, local: torch.Tensor, *placements) -> DTensor:
    return DTensor.from_local(local, mesh, placements, run_check=False)


def described(tensor: DTensor) -> tuple[ShardLayout, Mesh]:
    found = layout_of(tensor)
    assert not isinstance(found, NoLayout), found
    return found


def chunked(full: torch.Tensor, mesh_shape, coordinate, placements) -> torch.Tensor:
    """What torch leaves of a tensor: it cuts with ``torch.chunk`` alone."""
    held = full
    for size, place, placement in zip(mesh_shape, coordinate, placements, strict=True):
        if isinstance(placement, Replicate):
            continue
        pieces = [held]
        if isinstance(placement, _StridedShard):
            pieces = list(torch.chunk(held, int(placement.split_factor), placement.dim))
        parts = [torch.chunk(piece, size, placement.dim) for piece in pieces]
        empty = held.narrow(placement.dim, 0, 0)
        kept = [part[place] if place < len(part) else empty for part in parts]
        held = torch.cat(kept, placement.dim)
    return held


def indices_of(runs: list[tuple[int, int]]) -> list[int]:
    return [i for start, length in runs for i in range(start, start + length)]


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize("num_rows", range(11))
def test_every_placement_holds_what_torch_leaves_it(mesh_shape, num_rows):
    full = torch.arange(num_rows * 3).reshape(num_rows, 3)
    options = [Replicate(), Shard(0), Shard(1)]
    options += [_StridedShard(0, split_factor=2), _StridedShard(1, split_factor=3)]
    for placements in itertools.product(options, repeat=len(mesh_shape)):
        for coordinate in itertools.product(*map(range, mesh_shape)):
            held = held_runs((num_rows, 3), mesh_shape, coordinate, placements)
            rows, columns = map(indices_of, held)
            expected = chunked(full, mesh_shape, coordinate, placements)
            assert torch.equal(full[rows][:, columns], expected), placements


@pytest.mark.usefixtures("rank_1_of_4")
def test_a_strided_shard_has_a_block_for_each_piece():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    local = torch.ones(2, 3)  # rank 1 of 2x2: dp 0, tp 1
    tensor = DTensor.from_local(
        local,
        mesh,
        [_StridedShard(0, split_factor=2), Replicate()],
        run_check=False,
        shape=torch.Size((4, 3)),
        stride=(3, 1),
    )
    layout, found = described(tensor)
    assert found == Mesh(
        name="dp=2,tp=2", sizes={"dp": 2, "tp": 2}, coords={"dp": 0, "tp": 1}
    )
    assert layout.mesh == found.name
    assert [
        (b.region.start, b.region.extent, b.local_start) for b in layout.blocks
    ] == [((0, 0), (1, 3), (0, 0)), ((2, 0), (1, 3), (1, 0))]


@pytest.mark.usefixtures("rank_1_of_4")
def test_a_rank_may_hold_nothing():
    mesh = init_device_mesh("cpu", (4,))
    tensor = DTensor.from_local(
        torch.ones(0, 3),
        mesh,
        [Shard(0)],
        run_check=False,
        shape=torch.Size((1, 3)),
        stride=(3, 1),
    )
    layout, found = described(tensor)
    assert (layout.local_shape, layout.blocks) == ((0, 3), ())
    assert found.coords == {"axis0": 1}  # the mesh has no names


@pytest.mark.usefixtures("rank_1_of_4")
def test_a_slice_of_a_mesh_speaks_of_the_whole_mesh():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    layout, found = described(placed(mesh["tp"], torch.ones(3), Partial()))
    assert found.coords == {"dp": 0, "tp": 1}
    assert layout.partial_axes == ("tp",)
    assert layout.global_shape == (3,)


@pytest.mark.usefixtures("rank_1_of_4")
def test_a_mesh_of_some_of_the_ranks_has_shards_and_no_sums():
    mesh = DeviceMesh("cpu", [0, 1], mesh_dim_names=("tp",))
    layout, found = described(placed(mesh, torch.ones(3), Shard(0)))
    assert found.name == "tp=2" and layout.blocks[0].region.start == (3,)
    refused = layout_of(placed(mesh, torch.ones(3), Partial()))
    assert isinstance(refused, NoLayout)
    assert refused.reason == (
        "it is still to be summed over tp, and its mesh (tp=2) has no place for every "
        "rank of the run, so that which of them add up is not known; slice the mesh "
        "from one over all ranks"
    )


@pytest.mark.usefixtures("rank_1_of_4")
def test_flattened_axes_are_a_mesh_of_their_own():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
    layout, found = described(placed(mesh._flatten("both"), torch.ones(2), Shard(0)))
    assert (found.name, found.coords) == ("both=4", {"both": 1})
    assert layout.blocks[0].region.start == (2,)


@pytest.mark.usefixtures("rank_1_of_4")
def test_a_rank_outside_of_the_mesh_has_no_place():
    mesh = DeviceMesh("cpu", [2, 3], mesh_dim_names=("tp",))
    refused = layout_of(placed(mesh, torch.ones(3), Shard(0)))
    assert isinstance(refused, NoLayout)
    assert refused.reason == "this rank has no place on the mesh of this DTensor"
