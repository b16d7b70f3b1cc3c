"""Plans: which blocks meet, what is a copy, what is summed, what is missing."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import MESH, Tensor, memory_trace
from ttrace.compare.align import align
from ttrace.compare.covers import cover
from ttrace.compare.operands import PairPlan
from ttrace.compare.plan import plan_comparison
from ttrace.errors import LayoutError
from ttrace.ir.layout import Block, Mesh, Region, ShardLayout, whole
from ttrace.ir.trace import TraceInfo

ID = "step0/mb0/a/output/0"
FULL = np.arange(1, 25, dtype=np.float32).reshape(4, 6)


def cover_of(trace):
    ((record),) = trace.info.tensors.values()
    return cover(record, trace.info)


def one(dims=None, sizes=None, *, full=FULL, **tensor):
    return memory_trace({ID: Tensor(full=full, dims=dims, **tensor)}, sizes)


def plan_of(reference, candidate):
    matches = align(reference.info, candidate.info).matches
    (plan,) = plan_comparison(matches, reference.info, candidate.info).tensors
    return plan


def block_pairs(pairs) -> list[PairPlan]:
    """The pairs of a tensor without indexed rows."""
    assert all(isinstance(pair, PairPlan) for pair in pairs)
    return list(pairs)


def test_every_overlap_of_two_layouts_is_one_pair():
    plan = plan_of(one("a[tp] b", {"tp": 2}), one("a b[tp]", {"tp": 3}))
    regions = {pair.region for pair in block_pairs(plan.pairs)}
    assert len(plan.pairs) == len(regions) == 6
    assert sum(region.size for region in regions) == FULL.size
    for pair in block_pairs(plan.pairs):
        assert pair.region.intersect(pair.reference.region) == pair.region
        assert pair.region.intersect(pair.candidate.region) == pair.region


def test_the_lowest_rank_stands_for_its_copies():
    covered = cover_of(one("a[tp] b", {"dp": 2, "tp": 2}))
    assert [(operand.rank, region.start) for region, operand in covered.pieces] == [
        (0, (0, 0)),
        (1, (2, 0)),
    ]
    copies = [
        (pair.candidate.rank, pair.reference.rank)
        for pair in block_pairs(covered.replicas)
    ]
    assert copies == [(2, 0), (3, 1)]
    assert covered.num_uncovered == 0


def test_copies_that_overlap_in_part():
    """One rank holds rows 0-2, the other rows 1-3: rows 1-2 are copies."""

    def rows(mesh: Mesh) -> ShardLayout:
        start = mesh.coords["dp"]
        region = Region(start=(start, 0), extent=(3, 6))
        return ShardLayout(
            global_shape=(4, 6),
            local_shape=(3, 6),
            blocks=(Block(region=region, local_start=(0, 0)),),
            mesh=mesh.name,
        )

    covered = cover_of(one(rows, {"dp": 2}))
    assert [(r.start, r.extent, o.rank) for r, o in covered.pieces] == [
        ((0, 0), (3, 6), 0),
        ((3, 0), (1, 6), 1),
    ]
    (replica,) = block_pairs(covered.replicas)
    assert replica.region == Region(start=(1, 0), extent=(2, 6))


def test_partials_are_summed_per_group():
    covered = cover_of(one("a b partial[tp]", {"dp": 2, "tp": 3}))
    ((_, operand),) = covered.pieces
    assert [term.shard.rank for term in operand.terms] == [0, 1, 2]
    (replica,) = block_pairs(covered.replicas)
    assert [term.shard.rank for term in replica.candidate.terms] == [3, 4, 5]
    assert not covered.missing_partials


def test_missing_addend_leaves_its_part_uncovered():
    covered = cover_of(
        one("a[tp] b partial[dp]", {"dp": 2, "tp": 2}, holders=(0, 1, 2))
    )
    assert covered.missing_partials
    assert covered.num_uncovered == FULL.size // 2


@pytest.mark.parametrize(
    ("holders", "is_missing"), [((0, 3), False), ((0,), True), ((3,), True)]
)
def test_a_sum_of_which_only_some_ranks_have_an_addend(holders, is_missing):
    """A weight that the first and the last of four pipeline stages share."""

    def shared(mesh: Mesh) -> ShardLayout:
        return replace(whole((4, 6), mesh.name, partial_axes=("pp",)), num_partials=2)

    covered = cover_of(one(shared, {"pp": 4}, holders=holders))
    assert covered.missing_partials is is_missing
    assert covered.num_uncovered == (FULL.size if is_missing else 0)
    ranks = [t.shard.rank for _, operand in covered.pieces for t in operand.terms]
    assert ranks == ([] if is_missing else [0, 3])


def test_missing_rank_leaves_its_part_uncovered():
    covered = cover_of(one("a b[tp]", {"tp": 3}, holders=(0, 2)))
    assert covered.num_uncovered == FULL.size // 3
    assert not covered.missing_partials


def test_shapes_that_differ_are_not_compared():
    plan = plan_of(one(), one(full=FULL.T.copy()))
    assert plan.shapes_differ and not plan.pairs


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_scalars_and_empty_tensors(shape):
    trace = one(full=np.zeros(shape, np.float32))
    plan = plan_of(trace, trace)
    assert sum(pair.region.size for pair in block_pairs(plan.pairs)) == (
        1 if shape == () else 0
    )
    assert plan.reference_cover.num_uncovered == 0


def test_scales_meet_at_the_reference():
    plan = plan_of(one(scale=2.0), one(scale=0.5))
    assert [pair.factor for pair in plan.pairs] == [4.0]
    assert plan.candidate_cover.replicas == ()


def test_layouts_may_speak_of_several_meshes():
    """Two ranks: copies on the dense mesh, halves of an expert on the other."""
    other = "step0/mb0/experts/output/0"

    def on_expert_mesh(mesh: Mesh) -> ShardLayout:
        half = Region(start=(2 * mesh.coords["dp"], 0), extent=(2, 6))
        return ShardLayout(
            global_shape=(4, 6),
            local_shape=(2, 6),
            blocks=(Block(region=half, local_start=(0, 0)),),
            mesh="expert",
        )

    def partial_on_expert_mesh(mesh: Mesh) -> ShardLayout:
        return whole((4, 6), "expert", partial_axes=("ep",))

    summed = "step0/mb0/experts/output/1"
    trace = memory_trace(
        {
            ID: FULL,
            other: Tensor(full=FULL, dims=on_expert_mesh),
            summed: np.zeros((4, 6), np.float32),
        },
        {"dp": 2},
    )
    ranks = tuple(
        replace(
            info,
            meshes=(
                info.mesh(MESH),
                Mesh(name="expert", sizes={"ep": 2}, coords={"ep": info.rank}),
            ),
        )
        for info in trace.info.ranks
    )
    info = TraceInfo(ranks=ranks, tensors=trace.info.tensors, skipped={})
    dense, expert, partial = info.tensors.values()
    assert len(cover(dense, info).replicas) == 1
    assert len(cover(expert, info).pieces) == 2
    shards = tuple(
        replace(shard, layout=partial_on_expert_mesh(info.ranks[0].mesh(MESH)))
        for shard in partial.shards
    )
    ((_, operand),) = cover(replace(partial, shards=shards), info).pieces
    assert [term.shard.rank for term in operand.terms] == [0, 1]


def broken(**changes):
    """Two partials, one of them with another layout or scale."""
    trace = one("a b partial[tp]", {"tp": 2})
    (record,) = trace.info.tensors.values()
    first, second = record.shards
    return replace(record, shards=(first, replace(second, **changes))), trace.info


def test_addends_of_different_parts_are_refused():
    half = ShardLayout(
        global_shape=(4, 6),
        local_shape=(2, 6),
        blocks=(Block(region=Region(start=(0, 0), extent=(2, 6)), local_start=(0, 0)),),
        mesh=MESH,
        partial_axes=("tp",),
    )
    with pytest.raises(LayoutError, match="hold different parts") as caught:
        cover(*broken(layout=half))
    assert f"{ID}, partial over tp" in str(caught.value)
    assert "other blocks on rank 1" in str(caught.value)


def test_addends_of_different_scales_are_refused():
    with pytest.raises(LayoutError, match="different scales") as caught:
        cover(*broken(scale=0.5))
    assert "scale 0.5 on rank 1" in str(caught.value)


def test_ranks_at_one_place_of_a_mesh_cannot_be_summed():
    record, info = broken()
    crowded = (
        *record.shards,
        replace(record.shards[1], rank=2),
    )
    ranks = (*info.ranks, replace(info.ranks[1], rank=2))
    with pytest.raises(LayoutError, match="same place on a mesh") as caught:
        cover(replace(record, shards=crowded), replace(info, ranks=ranks))
    assert "ranks 0, 1, 2" in str(caught.value)
