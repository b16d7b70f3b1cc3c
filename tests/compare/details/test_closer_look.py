"""A closer look at tensors of every dtype and layout, against whole arrays."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.factories.routed_traces import FULL, routed
from tests.factories.traces import MemoryTrace, Tensor, memory_trace, write_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.align import align
from ttrace.compare.details import closer_look
from ttrace.compare.details.closer_look import boxes_of, look_closer
from ttrace.compare.details.error_grid import edges_of
from ttrace.compare.details.tensor_details import MAP_CELLS, PROFILE_BINS
from ttrace.compare.details.ulp import unit_dtype
from ttrace.compare.execute import TensorResult, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.ir.dtypes import DTYPES
from ttrace.testing.backend_values import FAMILIES, make_pairs

ID = "step0/mb0/a/output/0"
TOLERATED = 0.5
SHAPE = (3, 40, 70)

PAIRS = [
    *((name, name) for name in DTYPES),
    ("float32", "bfloat16"),
    ("bfloat16", "float16"),
    ("float64", "float32"),
    ("float8_e4m3fn", "float8_e5m2"),
    ("float32", "int32"),
    ("int64", "uint64"),
    ("int32", "bool"),
]


def look(reference, candidate) -> tuple[Any, TensorResult]:
    """Compares two traces by their first tensor, and looks closer at it."""
    alignment = align(reference.info, candidate.info)
    plan = plan_comparison(alignment.matches, reference.info, candidate.info)
    plan = plan_rows(plan, reference, candidate)
    result = run_plan(plan, reference, candidate, NumpyBackend())[0]
    return look_closer(result, reference, candidate, tolerated=TOLERATED), result


def look_at_arrays(reference, candidate):
    return look(memory_trace({ID: reference}), memory_trace({ID: candidate}))


def oracle_digits(reference, candidate, factor=1.0):
    """Elements by binary digits of their distance, and those that have none."""
    units = unit_dtype(reference.dtype.name, candidate.dtype.name)
    counts, num_not_comparable = [0] * 65, 0
    for r, c in zip(reference.reshape(-1), candidate.reshape(-1), strict=True):
        if DTYPES[units].epsilon is None:
            distance = math.ceil(abs(int(r) - int(c) * Fraction(factor)))
            distance = min(distance, 2**64 - 1)
        else:
            x, y = float(r), float(c) * factor
            if x == y and math.isinf(x):
                distance = 0
            elif not (math.isfinite(x) and math.isfinite(y)):
                num_not_comparable += 1
                continue
            else:
                distance = abs(ordered(x, units) - ordered(y, units))
        counts[distance.bit_length()] += 1
    while counts and not counts[-1]:
        counts.pop()
    return tuple(counts), num_not_comparable


def ordered(value, name):
    """The place of a value among the numbers of a dtype, zero being 0."""
    dtype = DTYPES[name].numpy
    with np.errstate(all="ignore"):
        number = np.array(value).astype(dtype)
    if not np.isfinite(number.astype(np.float64)):
        number = np.array(math.copysign(float(ml_dtypes.finfo(dtype).max), value))
        number = number.astype(dtype)
    bits = int.from_bytes(number.tobytes(), "little")
    half = 1 << (8 * dtype.itemsize - 1)
    return half - bits if bits >= half else bits


def oracle_difference(reference, candidate, factor=1.0):
    """The absolute difference, infinite where only one side is finite: longdouble."""
    r, c = (side.astype(np.longdouble) for side in (reference, candidate))
    with np.errstate(all="ignore"):
        c = (c * factor).astype(np.float64).astype(np.longdouble)
        difference = np.abs(c - r)
    difference[~np.isfinite(difference)] = np.inf
    difference[(r == c) | (np.isnan(r) & np.isnan(c))] = 0
    return difference


def oracle_errors(difference, reference, dims, max_bins):
    """Root mean squares over bins of some dims, over that of the whole reference."""
    r = reference.astype(np.longdouble)
    r = np.where(np.isfinite(r) & np.isfinite(difference), r, 0)
    rms = np.sqrt(np.mean(np.square(r)))
    edges = [edges_of(difference.shape[dim], max_bins) for dim in dims]
    errors = np.zeros([len(own) - 1 for own in edges], np.longdouble)
    for cell in np.ndindex(errors.shape):
        index = [slice(None)] * difference.ndim
        for dim, own, bin_ in zip(dims, edges, cell, strict=True):
            index[dim] = slice(own[bin_], own[bin_ + 1])
        with np.errstate(all="ignore"):
            mean = np.sqrt(np.mean(np.square(difference[tuple(index)])))
            errors[cell] = mean / rms if mean else 0
    return edges, errors


def assert_errors(found, expected):
    """To the three digits that are told; what overflows float64 is infinite."""
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float64)
    np.testing.assert_allclose(np.array(found), expected, rtol=6e-3)


def check(reference, candidate, details, result, factor=1.0):
    """Everything that details of two whole arrays say."""
    counts, num_not_comparable = oracle_digits(reference, candidate, factor)
    assert details.ulp_histogram.counts == counts
    assert details.ulp_histogram.num_not_comparable == num_not_comparable
    assert sum(counts) + num_not_comparable == reference.size
    difference = oracle_difference(reference, candidate, factor)
    limit = np.longdouble(TOLERATED) / np.sqrt(np.longdouble(reference.size))
    assert details.num_beyond == np.count_nonzero(difference > limit)
    if not result.stats.reference_norm:
        return
    long_dims = [dim for dim, length in enumerate(reference.shape) if length > 1]
    assert [profile.dim for profile in details.profiles] == long_dims
    for profile in details.profiles:
        (edges,), errors = oracle_errors(
            difference, reference, [profile.dim], PROFILE_BINS
        )
        assert profile.edges == tuple(edges.tolist())
        assert_errors(profile.errors, errors)
    if len(long_dims) > 1:
        drawn = details.error_map
        edges, errors = oracle_errors(difference, reference, drawn.dims, MAP_CELLS)
        assert drawn.edges == tuple(tuple(own.tolist()) for own in edges)
        assert_errors(drawn.errors, errors)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_dtype_and_family_of_values(ours, theirs):
    pairs, labels = make_pairs(
        ours, theirs, 1.0, shapes=[(2, 3, 66), (1,)], families=FAMILIES
    )
    num_looked_at = 0
    for pair, label in zip(pairs, labels, strict=True):
        details, result = look_at_arrays(pair.reference, pair.candidate)
        assert (details is None) == (not result.stats.num_unequal), label
        if details is not None:
            num_looked_at += 1
            check(pair.reference, pair.candidate, details, result)
    assert num_looked_at > len(pairs) // 4


@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn", "int64"])
def test_a_known_scale_is_taken_out_before(name, factor):
    rng = np.random.default_rng(3)
    full = (rng.standard_normal(SHAPE) * 50).astype(DTYPES[name].numpy)
    moved = full.copy()
    moved[0, 3] += moved.dtype.type(1)
    # What is recorded of a run of this scale is ``stored``.
    stored = (moved.astype(np.float64) / factor).astype(full.dtype)
    reference = memory_trace({ID: Tensor(full=full, scale=1.0)})
    candidate = memory_trace({ID: Tensor(full=stored, scale=1.0)})
    details, result = look(reference, with_scale(candidate, 1 / factor))
    check(full, stored, details, result, factor=factor)


def with_scale(trace, scale):
    """The same arrays, said to be so many times the mathematical values."""
    (record,) = trace.info.tensors.values()
    (shard,) = record.shards
    scaled = replace(shard, scale=scale)
    info = replace(trace.info, tensors={record.id: replace(record, shards=(scaled,))})
    return MemoryTrace(info, {(shard.rank, str(shard.id)): trace.load(shard)})


LAYOUTS = [
    ("b r c", {"dp": 1}),
    ("b r c[tp]", {"tp": 5}),
    ("b r[cp:zigzag] c[tp]", {"cp": 2, "tp": 2}),
    ("b r c[tp:uneven]", {"tp": 3}),
    ("(b r c)[dp:chunk]", {"dp": 7}),
    ("b[dp:uneven] r c partial[tp]", {"dp": 2, "tp": 2}),
]


@pytest.mark.parametrize(("dims", "sizes"), LAYOUTS)
@pytest.mark.parametrize("is_small", [False, True], ids=["whole", "in small boxes"])
def test_shards_land_where_they_lie_in_the_tensor(
    dims, sizes, is_small, monkeypatch, tmp_path
):
    if is_small:
        monkeypatch.setattr(closer_look, "BOX_ELEMENTS", 97)
        monkeypatch.setattr(closer_look, "TASK_ELEMENTS", 1000)
    rng = np.random.default_rng(4)
    full = rng.standard_normal(SHAPE).astype(np.float32)
    moved = full * (1 + 1e-3 * rng.standard_normal(SHAPE)).astype(np.float32)
    moved[1, 5:9, 20:30] += 1
    reference = write_trace(
        tmp_path / "r", {ID: Tensor(full=full, dims="b r[sp] c")}, {"sp": 4}
    )
    candidate = write_trace(tmp_path / "c", {ID: Tensor(full=moved, dims=dims)}, sizes)
    details, result = look(reference, candidate)
    if "partial" in dims:  # a sum of partials is rounded, too
        whole, _ = look_at_arrays(full, moved)
        assert details.num_beyond == whole.num_beyond >= 40
        assert details.error_map.dims == whole.error_map.dims == (1, 2)
        return
    check(full, moved, details, result)
    assert details.error_map.dims == (1, 2)
    peak = np.unravel_index(np.argmax(details.error_map.errors), (32, 32))
    assert 4 <= peak[0] <= 7 and 9 <= peak[1] <= 13


def test_borders_are_where_shards_of_other_ranks_begin():
    full = np.zeros((8, 12, 1), np.float32)
    moved = full + 1
    reference = memory_trace(
        {ID: Tensor(full=full, dims="r[cp:zigzag] c x")}, {"cp": 2}
    )
    candidate = memory_trace(
        {ID: Tensor(full=moved, dims="r c[tp:uneven] x")}, {"dp": 2, "tp": 5}
    )
    details, _ = look(reference, candidate)
    told = {(b.side, b.dim): b.positions for b in details.borders}
    assert told == {
        ("reference", 0): (2, 6),
        ("candidate", 1): (3, 6, 8, 10),
    }


def test_the_place_of_an_error_and_who_holds_it():
    full = np.random.default_rng(5).standard_normal((16, 64)).astype(np.float32)
    moved = full.copy()
    moved[:, 40:56] *= 1.1
    candidate = Tensor(full=moved, dims="r c[tp]")
    details, _ = look(
        memory_trace({ID: full}), memory_trace({ID: candidate}, {"tp": 8})
    )
    place = details.place
    assert (place.dim, place.ranges, place.ranks) == (1, ((40, 56),), (5, 6))
    assert place.share == 1.0


@pytest.mark.parametrize(
    ("width", "elsewhere", "place"),
    [
        (16, 0.1, ((0, 16),)),
        (17, 0.1, None),  # more than a quarter, and the rest does not agree
        (17, 0.001, ((0, 17),)),
        (48, 0.0, ((0, 48),)),
        (49, 0.0, None),  # more than three quarters
        (64, 0.0, None),
    ],
)
def test_a_place_is_small_or_all_else_agrees(width, elsewhere, place):
    full = np.random.default_rng(5).standard_normal((16, 64)).astype(np.float32)
    moved = full + np.float32(elsewhere)
    moved[:, :width] = full[:, :width] + 1
    details, _ = look_at_arrays(full, moved)
    assert (details.place and details.place.ranges) == place


@pytest.mark.parametrize(("elsewhere", "is_place"), [(0.02, True), (0.04, False)])
def test_a_rest_that_is_small_beside_the_error_need_not_agree(elsewhere, is_place):
    """Of a norm of 0.32, or of 0.64, where 0.5 is tolerated: 99.999% lies elsewhere."""
    full = np.random.default_rng(5).standard_normal((16, 64)).astype(np.float32)
    moved = full + np.float32(elsewhere)
    moved[:, :48] = full[:, :48] + 10
    details, _ = look_at_arrays(full, moved)
    assert (details.place is not None) == is_place


def test_one_element_of_many():
    full = np.random.default_rng(6).standard_normal(4096).astype(np.float32)
    moved = full.copy()
    moved[1234] += 1
    details, _ = look_at_arrays(full, moved)
    assert details.num_beyond == 1
    assert details.error_map is None
    assert details.place.ranges == ((1216, 1280),)
    assert sum(details.ulp_histogram.counts[1:]) == 1


def test_a_nan_is_infinitely_off_where_it_is():
    full = np.ones((64, 64), np.float32)
    moved = full.copy()
    moved[5, 9] = np.nan
    details, _ = look_at_arrays(full, moved)
    assert details.num_beyond == 1
    assert details.ulp_histogram.num_not_comparable == 1
    assert details.place is None
    cells = np.array(details.error_map.errors)
    assert np.argwhere(np.isinf(cells)).tolist() == [[2, 4]]
    assert np.count_nonzero(cells) == 1


def test_a_reference_of_zeros_is_infinitely_off():
    moved = np.zeros((4, 4), np.float32)
    moved[2, 3] = 1
    details, _ = look_at_arrays(np.zeros((4, 4), np.float32), moved)
    assert np.count_nonzero(np.isinf(details.error_map.errors)) == 1


def test_rows_that_depend_on_data_are_where_their_positions_say(monkeypatch):
    rows = list(range(24))
    reference = routed({0: rows}, {"dp": 1})
    wrong = FULL.copy()
    wrong[9] += 100
    monkeypatch.setattr("tests.factories.routed_traces.FULL", wrong)
    candidate = routed({0: rows[7::-1], 1: rows[:7:-1]}, {"dp": 2})
    details, result = look(reference, candidate)
    assert details.num_beyond == 4
    check(FULL, wrong, details, result)
    assert details.borders == ()


def test_rows_that_one_run_lacks_count_as_off():
    reference = routed({0: range(24)}, {"dp": 1})
    candidate = routed({0: [*range(20), -1]}, {"dp": 1})
    details, result = look(reference, candidate)
    wrong = FULL.copy()
    wrong[20:] = 0
    check(FULL, wrong, details, result)


def test_boxes_cover_an_array_once_and_are_small():
    for shape in [(), (1,), (7,), (3, 5), (2, 3, 4, 5), (1, 100), (100, 1)]:
        for max_elements in (1, 7, 12, 1000):
            seen = np.zeros(shape, int)
            for box in boxes_of(shape, max_elements):
                part = seen[(*box, ...)]
                assert part.size <= max_elements
                part += 1
            assert (seen == 1).all()


def test_edges_of_half_as_many_bins_are_among_those_of_all():
    for length in range(1, 700):
        finer, coarser = edges_of(length), edges_of(length, MAP_CELLS)
        assert set(coarser.tolist()) <= set(finer.tolist())
        assert (np.diff(finer) > 0).all() and finer[0] == 0 and finer[-1] == length
