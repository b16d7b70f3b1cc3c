"""Every layout against every other kind of layout, by enumeration.

A full tensor of distinct numbers is cut twice, compared, and must agree with each
element counted once; then one element of one shard is changed, and must be found. What
should come out is computed from index arrays cut the same way, not from plans.
"""

import functools
import itertools
import math
import random

import numpy as np
import pytest

from tests.factories.traces import MESH, MemoryTrace, Tensor, memory_trace
from ttrace.compare.align import align
from ttrace.compare.backend import load_backend
from ttrace.compare.covers import cover
from ttrace.compare.execute import run_plan, run_replicas
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.testing import cut, meshes

GROUPS = {
    8: ["1", "2", "4", "8", "2x2", "2x4", "4x2", "2x2x2"],
    6: ["1", "2", "3", "6", "2x3", "3x2"],
    5: ["5"],
    7: ["7"],
}
"""Meshes that can cut the same tensor, by the number that its dims are multiples of."""

ID = "step0/mb0/a/output/0"

CASES = [(unit, mesh) for unit, group in GROUPS.items() for mesh in group]


def sizes_of(mesh):
    return dict(zip("abc", map(int, mesh.split("x")), strict=False))


def full_of(unit):
    """Distinct, exact in float32 also when doubled; two dims divisible by ``unit``."""
    values = np.random.default_rng(unit).permutation(8 * unit * unit) + 1
    return values.astype(np.float32).reshape(2 * unit, 4 * unit)


@functools.cache
def layouts_of(unit, mesh):
    """Dims texts: for every axis, every way to use it; those that make sense."""
    sizes = sizes_of(mesh)
    qkv = f"{{}}:parts({2 * unit},{unit},{unit})"
    uses = [("copy", ""), ("sum", ""), ("flat", "{}:chunk"), ("column", qkv)]
    split = ["{}", "{}:zigzag"]
    if len(sizes) < 3:
        split += ["{}:parts(2)", "{}:chunk", "{}:uneven", "{}:padded(3)"]
        uses += [("column", text) for text in split]
    else:
        uses += [("column", "{}:chunk")]
    uses += [("row", text) for text in split]
    texts = []
    for chosen in itertools.product(uses, repeat=len(sizes)):
        parts = {"row": [], "column": [], "flat": [], "sum": [], "copy": []}
        for axis, (use, text) in zip(sizes, chosen, strict=True):
            parts[use].append(text.format(axis) or axis)
        text = "r" + bracketed(parts["row"]) + " c" + bracketed(parts["column"])
        if parts["flat"]:
            text = f"({text}){bracketed(parts['flat'])}"
        if parts["sum"]:
            text += " partial" + bracketed(parts["sum"])
        if is_possible(text, (2 * unit, 4 * unit), sizes):
            texts.append(text)
    if len(sizes) == 1:  # sizes by hand, all but one of them empty
        empty = [0] * (sizes["a"] - 1)
        texts.append(f"r[a:sizes({','.join(map(str, [*empty, 2 * unit]))})] c")
    return tuple(texts)


def bracketed(parts):
    return f"[{','.join(parts)}]" if parts else ""


def is_possible(text, shape, sizes):
    try:
        for mesh in meshes(MESH, sizes):
            parse_dims(text).lower(shape, mesh)
    except LayoutError:
        return False
    return True


class Holdings:
    """Which rank holds which element where; the oracle of this module."""

    def __init__(self, text, full, sizes):
        self.ranks = meshes(MESH, sizes)
        self.partial = parse_dims(text).partial_axes
        index = np.arange(full.size, dtype=np.int64).reshape(full.shape)
        self.local = [
            cut(index, parse_dims(text).lower(full.shape, mesh)) for mesh in self.ranks
        ]
        """Global flat index of each local element; the largest integer for padding."""
        self.size = full.size

    def leader(self, rank):
        """The lowest of the ranks whose arrays are summed with this one's."""
        kept = {
            axis: coord
            for axis, coord in self.ranks[rank].coords.items()
            if axis not in self.partial
        }
        return next(
            other
            for other, mesh in enumerate(self.ranks)
            if kept.items() <= mesh.coords.items()
        )

    def owner(self, index):
        """The rank that stands for an element."""
        return next(
            self.leader(rank)
            for rank, local in enumerate(self.local)
            if (local == index).any()
        )

    def num_copies(self):
        """Elements held, over what is needed to hold each once."""
        held = sum(int((local < self.size).sum()) for local in self.local)
        num_partials = math.prod(self.ranks[0].sizes[axis] for axis in self.partial)
        return held // num_partials - self.size

    def some_place(self, chooser):
        """A rank, a position in its array that is no padding, its global index."""
        rank = chooser.choice(
            [rank for rank, local in enumerate(self.local) if (local < self.size).any()]
        )
        places = np.argwhere(self.local[rank] < self.size)
        place = tuple(map(int, places[chooser.randrange(len(places))]))
        return rank, place, int(self.local[rank][place])


def tensors_of(texts, full):
    return {
        f"step0/mb0/m{number}/output/0": Tensor(full=full, dims=text)
        for number, text in enumerate(texts)
    }


def compare(reference, candidate, backend="numpy"):
    matches = align(reference.info, candidate.info).matches
    plan = plan_comparison(matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    return run_plan(plan, reference, candidate, load_backend(backend))


def rounds(unit, mesh):
    """The layouts of a mesh, dealt out over the layouts of every mesh of its group."""
    chooser = random.Random(f"{unit} {mesh}")
    layouts = list(layouts_of(unit, mesh))
    chooser.shuffle(layouts)
    group = GROUPS[unit]
    for number, other in enumerate(group):
        ours = layouts[number :: len(group)]
        theirs = layouts_of(unit, other)
        if ours:
            yield ours, other, chooser.choices(theirs, k=len(ours))


@pytest.mark.parametrize(("unit", "mesh"), CASES)
def test_layouts_agree_and_count_every_element_once(unit, mesh):
    full, sizes = full_of(unit), sizes_of(mesh)
    for ours, other, theirs in rounds(unit, mesh):
        reference = memory_trace(tensors_of(theirs, full), sizes_of(other))
        candidate = memory_trace(tensors_of(ours, full), sizes)
        results = compare(reference, candidate)
        assert len(results) == len(ours)
        for text, their_text, result in zip(ours, theirs, results, strict=True):
            what = f"{text} on {mesh} against {their_text} on {other}"
            assert result.stats.count == full.size, what
            assert result.stats.num_unequal == 0, what
            assert result.stats.difference_norm == 0, what
            assert result.stats.num_nan_candidate == 0, what  # no padding got in
            assert math.isclose(
                result.stats.reference_norm, np.linalg.norm(full.astype(float))
            ), what
            for side, cover_of_side, replicas, holdings in (
                (
                    "reference",
                    result.plan.reference_cover,
                    result.reference_replicas,
                    Holdings(their_text, full, sizes_of(other)),
                ),
                (
                    "candidate",
                    result.plan.candidate_cover,
                    result.candidate_replicas,
                    Holdings(text, full, sizes),
                ),
            ):
                assert cover_of_side.num_uncovered == 0, (what, side)
                compared = sum(replica.stats.count for replica in replicas)
                assert compared == holdings.num_copies(), (what, side)
                assert all(replica.is_exact for replica in replicas), (what, side)
            by_rank = sum(part.count for part in result.rank_stats.values())
            assert by_rank == full.size, what


def corrupt(trace: MemoryTrace, text, full, sizes, tensor_id, chooser):
    """Adds 1/2 to one element; says which rank, and the element's global index."""
    holdings = Holdings(text, full, sizes)
    rank, place, index = holdings.some_place(chooser)
    array = trace.arrays[rank, tensor_id]
    array[place] += np.float32(0.5)
    return holdings, rank, index


@pytest.mark.parametrize("side", ["candidate", "reference"])
@pytest.mark.parametrize(("unit", "mesh"), CASES)
def test_one_wrong_element_of_one_shard_is_found(unit, mesh, side):
    full, sizes = full_of(unit), sizes_of(mesh)
    chooser = random.Random(f"{unit} {mesh} {side}")
    for ours, other, theirs in rounds(unit, mesh):
        sound = memory_trace(tensors_of(theirs, full), sizes_of(other))
        wrong = memory_trace(tensors_of(ours, full), sizes)
        expected = {
            tensor_id: corrupt(wrong, text, full, sizes, tensor_id, chooser)
            for tensor_id, text in zip(tensors_of(ours, full), ours, strict=True)
        }
        pair = (sound, wrong) if side == "candidate" else (wrong, sound)
        for result in compare(*pair):
            holdings, rank, index = expected[str(result.plan.id)]
            what = f"{result.plan.id} rank {rank} of {mesh} against {other}"
            replicas = getattr(result, f"{side}_replicas")
            leader, owner = holdings.leader(rank), holdings.owner(index)
            bad = [replica for replica in replicas if not replica.is_exact]
            assert all(replica.stats.num_unequal == 1 for replica in bad), what
            if leader == owner:
                assert result.stats.num_unequal == 1, what
                assert result.stats.max_abs_diff == 0.5, what
                at = result.max_abs_diff_at
                assert at is not None, what
                assert np.ravel_multi_index(at, full.shape) == index, what
                # Every other copy of it now differs from the one that counts.
                copies = {
                    holdings.leader(other_rank)
                    for other_rank, local in enumerate(holdings.local)
                    if (local == index).any()
                } - {owner}
                assert {replica.rank for replica in bad} == copies, what
                assert {replica.against for replica in bad} <= {owner}, what
                if side == "candidate":
                    assert result.rank_stats[owner].num_unequal == 1, what
            else:
                assert result.stats.num_unequal == 0, what
                (only,) = bad
                assert (only.rank, only.against) == (leader, owner), what
                assert only.stats.max_abs_diff == 0.5 and only.spread > 0, what


@pytest.mark.parametrize(("unit", "mesh"), [case for case in CASES if case[1] != "1"])
def test_a_rank_without_the_tensor_leaves_what_only_it_holds(unit, mesh):
    full, sizes = full_of(unit), sizes_of(mesh)
    num_ranks = math.prod(sizes.values())
    texts = layouts_of(unit, mesh)
    chooser = random.Random(f"{unit} {mesh}")
    for text in chooser.sample(texts, min(len(texts), 25)):
        gone = chooser.randrange(num_ranks)
        holders = tuple(rank for rank in range(num_ranks) if rank != gone)
        trace = memory_trace(
            {"step0/loss/loss": Tensor(full=full, dims=text, holders=holders)}, sizes
        )
        ((record),) = trace.info.tensors.values()
        covered = cover(record, trace.info)
        holdings = Holdings(text, full, sizes)
        broken = {
            rank
            for rank in range(num_ranks)
            if holdings.leader(rank) == holdings.leader(gone)
        }
        left = {
            int(index)
            for rank in set(range(num_ranks)) - broken
            for index in holdings.local[rank].reshape(-1)
            if index < full.size
        }
        assert covered.num_uncovered == full.size - len(left), text
        assert covered.missing_partials == (len(broken) > 1), text


@pytest.mark.parametrize("mesh", ["1", "4", "2x2", "2x2x2"])
def test_jax_backend_agrees_on_layouts(mesh):
    unit, chooser = 8, random.Random(mesh)
    full, sizes = full_of(unit), sizes_of(mesh)
    texts = layouts_of(unit, mesh)
    ours = chooser.sample(texts, min(len(texts), 12))
    theirs = chooser.sample(texts, len(ours))
    reference = memory_trace(tensors_of(theirs, full), sizes)
    candidate = memory_trace(tensors_of(ours, full), sizes)
    for tensor_id, text in zip(tensors_of(ours, full), ours, strict=True):
        corrupt(candidate, text, full, sizes, tensor_id, chooser)
    by_numpy, by_jax = (
        compare(reference, candidate, name) for name in ("numpy", "jax")
    )
    for one, other in zip(by_numpy, by_jax, strict=True):
        assert one.max_abs_diff_at == other.max_abs_diff_at
        assert one.stats.num_unequal == other.stats.num_unequal
        assert math.isclose(
            one.stats.difference_norm, other.stats.difference_norm, rel_tol=1e-6
        )
        assert [
            (r.rank, r.against, r.stats.num_unequal) for r in one.candidate_replicas
        ] == [
            (r.rank, r.against, r.stats.num_unequal) for r in other.candidate_replicas
        ]


def test_the_enumeration_is_as_large_as_meant():
    """A bug in ``is_possible`` must not empty the tests above."""
    num_layouts = {mesh: len(layouts_of(8, mesh)) for mesh in GROUPS[8]}
    assert num_layouts["8"] >= 15
    assert num_layouts["2x4"] >= 200
    assert num_layouts["2x2x2"] >= 250


def only_result(reference, candidate):
    (result,) = compare(
        memory_trace({ID: reference[0]}, reference[1]),
        memory_trace({ID: candidate[0]}, candidate[1]),
    )
    return result


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int8"])
def test_sums_of_integers_stay_exact(dtype):
    """2**53 + 1 is no float64."""
    value = 2**53 + 1 if dtype != "int8" else 50
    full = np.full(4, value, dtype)
    summed = Tensor(full=full, dims="x partial[tp]")
    result = only_result((full, None), (summed, {"tp": 2}))
    assert result.stats.num_unequal == 0
    result = only_result((full - full.dtype.type(1), None), (summed, {"tp": 2}))
    assert result.stats.num_unequal == 4 and result.stats.max_abs_diff == 1


def test_infinities_that_cancel_in_a_sum_are_counted_without_a_warning():
    trace = memory_trace(
        {ID: Tensor(full=np.ones(3, np.float32), dims="x partial[tp]")}, {"tp": 2}
    )
    trace.arrays[0, ID][1] = np.inf
    trace.arrays[1, ID][1] = -np.inf
    (result,) = compare(memory_trace({ID: np.ones(3, np.float32)}), trace)
    assert result.stats.num_nan_candidate == 1


def test_a_known_scale_is_divided_out():
    full = np.arange(6, dtype=np.float32)
    halved = Tensor(full=full, scale=0.5)
    assert only_result((full, None), (halved, None)).stats.num_unequal == 0
    assert only_result((halved, None), (full, None)).stats.num_unequal == 0
    wrong = only_result((full, None), (Tensor(full=full * 3, scale=0.5), None))
    assert wrong.stats.rel_err == pytest.approx(2)


def test_the_largest_difference_of_all_parts_is_placed():
    """Parts are merged in order; a later, smaller difference must not win."""
    full = np.zeros((4, 2), np.float32)
    for largest in (0, 3):
        changed = full.copy()
        changed[0, 1], changed[3, 0] = (5, 2) if largest == 0 else (2, 5)
        result = only_result(
            (full, None), (Tensor(full=changed, dims="r[a] c"), {"a": 4})
        )
        assert result.max_abs_diff_at == ((0, 1) if largest == 0 else (3, 0))
        assert result.stats.max_abs_diff == 5


def test_scalars_and_empty_tensors():
    two, three = np.array(2, np.float32), np.array(3, np.float32)
    scalar = only_result((two, None), (three, None))
    assert scalar.stats.count == 1 and scalar.max_abs_diff_at == ()
    empty = np.zeros((0, 4), np.float32)
    assert only_result((empty, None), (empty, {"dp": 2})).stats.count == 0


def test_progress_counts_elements_to_the_end():
    seen = []
    trace = memory_trace({ID: np.ones((4, 2), np.float32)}, {"dp": 2})
    matches = align(trace.info, trace.info).matches
    plan = plan_comparison(matches, trace.info, trace.info)
    run_plan(
        plan,
        trace,
        trace,
        load_backend("numpy"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(8, 24), (16, 24), (24, 24)]  # the pair, and a copy on each side


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("first", "second", "exact", "spread"),
    [
        ([1, 2], [1, 2], True, 0),
        ([3, 4], [3, 4.5], False, 0.1),
        ([0, 0], [0, 1], False, INF),
        ([1, NAN], [1, NAN], False, INF),
        ([1, NAN], [1, 2], False, INF),
        ([1, INF], [1, INF], True, 0),
        ([1, INF], [INF, 1], False, INF),
        ([1, INF], [1, -INF], False, INF),
    ],
)
def test_spread_of_copies(first, second, exact, spread):
    trace = memory_trace({ID: np.zeros(2, np.float32)}, {"dp": 2})
    trace.arrays[0, ID][:] = first
    trace.arrays[1, ID][:] = second
    ((record),) = trace.info.tensors.values()
    ((replica,),) = run_replicas(
        [cover(record, trace.info).replicas], trace, load_backend("numpy")
    )
    assert (replica.rank, replica.against) == (1, 0)
    assert replica.is_exact is exact
    assert replica.spread == pytest.approx(spread)
    assert replica.agrees_within(0.0) is exact
    assert replica.agrees_within(2.0) is (
        exact or all(map(math.isfinite, second + first))
    )
