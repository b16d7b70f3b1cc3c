"""PairStats: what it derives, and that merging is like computing it at once."""

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.compare.stats import PairStats

WHOLE_NUMBERS = st.integers(min_value=-9, max_value=9)
PAIRS = st.lists(st.tuples(WHOLE_NUMBERS, WHOLE_NUMBERS), max_size=12)


def make_stats(pairs: list[tuple[int, int]], scale: float = 1.0) -> PairStats:
    """Statistics of small whole numbers, from sums that are exact."""
    r2, c2, product, d2 = (
        sum(map(f, pairs))
        for f in (
            lambda p: p[0] ** 2,
            lambda p: p[1] ** 2,
            lambda p: p[0] * p[1],
            lambda p: (p[1] - p[0]) ** 2,
        )
    )
    differences = [abs(c - r) for r, c in pairs]
    largest = max(differences, default=0)
    return PairStats(
        count=len(pairs),
        reference_norm=math.sqrt(r2) * scale,
        candidate_norm=math.sqrt(c2) * scale,
        difference_norm=math.sqrt(d2) * scale,
        cosine=product / math.sqrt(r2 * c2) if r2 * c2 else 0.0,
        max_abs_diff=largest * scale,
        max_abs_diff_at=differences.index(largest) if largest else None,
        max_abs_reference=max((abs(r) for r, _ in pairs), default=0) * scale,
        max_abs_candidate=max((abs(c) for _, c in pairs), default=0) * scale,
        num_unequal=sum(r != c for r, c in pairs),
    )


def assert_close(left: PairStats, right: PairStats) -> None:
    for field in fields(PairStats):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if a is None or b is None:
            assert a is b, field.name
            continue
        absolute = 1e-14 if field.name == "cosine" else 0
        assert a == pytest.approx(b, rel=1e-14, abs=absolute), field.name


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
@given(parts=st.lists(PAIRS, max_size=4))
def test_merge_is_like_the_concatenation(
    scale: float, parts: list[list[tuple[int, int]]]
) -> None:
    merged = PairStats()
    for part in parts:
        merged = merged.merge(make_stats(part, scale))
    assert_close(merged, make_stats(sum(parts, []), scale))


@given(PAIRS, PAIRS, PAIRS)
def test_merge_is_associative(a, b, c) -> None:
    a, b, c = (make_stats(part) for part in (a, b, c))
    assert_close(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(PAIRS)
def test_empty_statistics_change_nothing(pairs) -> None:
    stats = make_stats(pairs)
    assert_close(PairStats().merge(stats), stats)
    assert_close(stats.merge(PairStats()), stats)


def test_merge_counts_everything() -> None:
    names = [f.name for f in fields(PairStats) if f.name.startswith("num_")]
    left = replace(PairStats(), **{name: i for i, name in enumerate(names, 1)})
    merged = left.merge(left)
    for i, name in enumerate(names, 1):
        assert getattr(merged, name) == 2 * i
    assert merged.num_nonfinite_reference == (
        merged.num_nan_reference + merged.num_inf_reference
    )
    assert merged.num_nonfinite_candidate == (
        merged.num_nan_candidate + merged.num_inf_candidate
    )


def test_position_is_the_first_of_equal_maxima() -> None:
    left = PairStats(count=5, max_abs_diff=2.0, max_abs_diff_at=3)
    right = PairStats(count=7, max_abs_diff=2.0, max_abs_diff_at=1)
    assert left.merge(right).max_abs_diff_at == 3
    larger = replace(right, max_abs_diff=2.5)
    assert left.merge(larger).max_abs_diff_at == 5 + 1
    assert PairStats(count=5).merge(right).max_abs_diff_at == 5 + 1
    assert PairStats(count=5).merge(PairStats(count=5)).max_abs_diff_at is None


@pytest.mark.parametrize("norm", [1e-320, 1e-300, 1e300, 1.7e308, math.inf])
def test_cosine_survives_extreme_norms(norm: float) -> None:
    part = PairStats(count=1, reference_norm=norm, candidate_norm=norm, cosine=1.0)
    merged = part.merge(part).merge(PairStats(count=4))
    assert 0 <= merged.cosine <= 1
    if norm < 1e307:
        assert merged.cosine == pytest.approx(1.0, rel=1e-3)


def test_cosine_stays_within_bounds() -> None:
    part = PairStats(count=1, reference_norm=0.1, candidate_norm=0.3, cosine=1.0)
    merged = part
    for previous, _ in pairwise(range(100)):
        merged = merged.merge(replace(part, reference_norm=0.1 + previous))
        assert -1 <= merged.cosine <= 1


@pytest.mark.parametrize(
    ("reference", "difference", "expected"),
    [(2.0, 1.0, 0.5), (0.0, 0.0, 0.0), (0.0, 1.0, math.inf), (2.0, 0.0, 0.0)],
)
def test_rel_err(reference: float, difference: float, expected: float) -> None:
    stats = PairStats(count=1, reference_norm=reference, difference_norm=difference)
    assert stats.rel_err == expected
