"""Parts of a tensor: which elements they are, however shards lie, on every backend."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.align import align
from ttrace.compare.backend import load_backend
from ttrace.compare.execute import run_parts
from ttrace.compare.parts import Part, equal_blocks
from ttrace.compare.plan import plan_comparison

WEIGHT = "step0/a/updated_param/weight"
FULL = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)
OTHER = FULL + np.random.default_rng(1).normal(size=FULL.shape).astype(np.float32)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize(
    ("dims", "sizes"),
    [
        (None, None),
        ("f[tp] h", {"tp": 4}),
        ("f h[tp]", {"tp": 2}),
        ("f[tp:parts(3)] h", {"tp": 2}),
        ("(f h)[tp:chunk]", {"tp": 8}),
        ("f h partial[tp]", {"tp": 2}),
    ],
)
@pytest.mark.parametrize(
    "part",
    [
        Part(dim=0, ranges=((0, 4), (8, 12))),
        Part(dim=1, ranges=((3, 4),)),
        Part(dim=0, ranges=((5, 6), (7, 8), (9, 10))),
    ],
    ids=str,
)
def test_a_part_is_what_numpy_takes(part, dims, sizes, backend):
    reference = memory_trace({WEIGHT: FULL})
    candidate = memory_trace({WEIGHT: Tensor(full=OTHER, dims=dims)}, sizes)
    matches = align(reference.info, candidate.info).matches
    (plan,) = plan_comparison(matches, reference.info, candidate.info).tensors
    (stats,) = run_parts([(plan, part)], reference, candidate, load_backend(backend))
    taken = FULL.take(part.indices, part.dim).astype(np.float64)
    difference = OTHER.take(part.indices, part.dim) - taken
    assert stats.count == taken.size
    assert stats.reference_norm == pytest.approx(np.linalg.norm(taken), rel=1e-6)
    assert stats.difference_norm == pytest.approx(np.linalg.norm(difference), rel=1e-6)
    assert stats.max_abs_diff == pytest.approx(np.abs(difference).max(), rel=1e-6)


def test_a_part_of_indices():
    part = Part.of_indices(1, np.array([0, 1, 2, 5, 7, 8]))
    assert part == Part(dim=1, ranges=((0, 3), (5, 6), (7, 9)))
    assert list(part.indices) == [0, 1, 2, 5, 7, 8]
    assert str(part) == "0:3, 5, 7:9 of dim 1"
    many = Part.of_indices(0, np.arange(0, 20, 2))
    assert str(many) == "0, 2, 4, 6 and 6 more ranges of dim 0"


@pytest.mark.parametrize("ranges", [(), ((2, 2),), ((0, 3), (3, 5)), ((4, 2),)])
def test_ranges_are_ascending_and_apart(ranges):
    with pytest.raises(ValueError, match="not a part of a tensor"):
        Part(dim=0, ranges=ranges)


def test_blocks_divide_a_dim():
    assert [b.ranges for b in equal_blocks(0, 6, max_blocks=4)] == [
        ((0, 2),),
        ((2, 4),),
        ((4, 6),),
    ]
    assert equal_blocks(0, 7, max_blocks=4) == equal_blocks(0, 1, max_blocks=4) == ()
