"""Each fault of a backend fails the test that is there for it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.backend import ArrayPair
from ttrace.compare.stats import PairStats
from ttrace.testing import BackendSuite, failed_checks
from ttrace.testing.backend_values import FAMILIES

SMALL = {"normal": FAMILIES["normal"], "inf": FAMILIES["inf"]}


class Wrapped:
    """The numpy backend, with something done to what it is given or gives."""

    name = "wrapped"

    def compare(self, pairs: Iterable[ArrayPair]) -> Iterator[PairStats]:
        for pair in pairs:
            (stats,) = NumpyBackend().compare([self.given(pair)])
            yield self.changed(stats, pair)

    def given(self, pair: ArrayPair) -> ArrayPair:
        return pair

    def changed(self, stats: PairStats, pair: ArrayPair) -> PairStats:
        return stats


def when(condition: Callable[[ArrayPair], bool]) -> Callable[[], Wrapped]:
    """A backend that counts one too many where the condition holds."""

    class Wrong(Wrapped):
        def changed(self, stats, pair):
            return replace(stats, count=stats.count + 1) if condition(pair) else stats

    return Wrong


class Nameless(Wrapped):
    name = ""


class Imprecise(Wrapped):
    def changed(self, stats, pair):
        return replace(stats, reference_norm=stats.reference_norm * (1 + 1e-5))


class CosineOff(Wrapped):
    def changed(self, stats, pair):
        return replace(stats, cosine=stats.cosine - 1e-5)


class Narrow(Wrapped):
    """Integers by way of float64, as a framework without 64 bits would."""

    def given(self, pair):
        if pair.reference.dtype.kind not in "iu":
            return pair
        return replace(
            pair,
            reference=pair.reference.astype(np.float64),
            candidate=pair.candidate.astype(np.float64),
        )


class Rounded(Wrapped):
    """Differences below 1e-6 of the value are lost."""

    def changed(self, stats, pair):
        if stats.num_unequal == 1:
            return replace(stats, num_unequal=0)
        return stats


class Neighbourly(Wrapped):
    def compare(self, pairs):
        pairs = list(pairs)
        for stats in super().compare(pairs):
            yield replace(stats, count=stats.count + len(pairs))


class Counting(Wrapped):
    calls = 0

    def changed(self, stats, pair):
        type(self).calls += 1
        return replace(stats, cosine=stats.cosine + type(self).calls * 1e-12)


class InPlace(Wrapped):
    def changed(self, stats, pair):
        if pair.candidate.flags.writeable and pair.candidate.size:
            pair.candidate[...] = 0
        return stats


class Backwards(Wrapped):
    def compare(self, pairs):
        yield from reversed(list(super().compare(pairs)))


class Swallowing(Wrapped):
    def compare(self, pairs):
        try:
            yield from super().compare(pairs)
        except OSError:
            return


class LeftBusy(Wrapped):
    is_busy = False

    def compare(self, pairs):
        assert not self.is_busy, "still busy"
        self.is_busy = True
        yield from super().compare(pairs)


class Restless(Wrapped):
    def compare(self, pairs):
        yield from super().compare(pairs)
        yield PairStats()


FAULTS: dict[str, tuple[Callable[[], Wrapped], str]] = {
    "test_has_a_name": (Nameless, "the name of the backend is ''"),
    "test_known_answers": (Imprecise, "reference_norm is"),
    "test_dtypes_shapes_values": (when(lambda p: p.reference.shape == ()), "count is"),
    "test_factors": (when(lambda p: p.factor == -1), "count is 2, not 1"),
    "test_extreme_factors": (when(lambda p: p.factor == 0), "count is"),
    "test_views": (
        when(lambda p: not p.reference.flags.c_contiguous),
        "strided: count is",
    ),
    "test_several_chunks": (when(lambda p: p.reference.size > 2**20), "count is"),
    "test_one_ulp_apart": (Rounded, "num_unequal is 0, not 1"),
    "test_every_value": (CosineOff, "cosine is"),
    "test_large_integers_are_compared_exactly": (Narrow, "int64: num_unequal is"),
    "test_pairs_of_all_dtypes_come_back_in_order": (Backwards, "count is"),
    "test_neighbours_do_not_matter": (Neighbourly, "count is"),
    "test_repeated_runs_are_bitwise_the_same": (Counting, "and then"),
    "test_inputs_stay_as_they_are": (InPlace, "an input was changed"),
    "test_read_only_inputs": (
        when(lambda p: not p.reference.flags.writeable),
        "count is",
    ),
    "test_errors_of_the_source_reach_the_caller": (Swallowing, "was swallowed"),
    "test_may_be_left_early": (LeftBusy, "still busy"),
    "test_no_pairs": (Restless, "1 results of no pairs"),
}


class SmallMatrix(BackendSuite):
    dtypes = (("float32", "float32"), ("bfloat16", "float32"))
    families = {**SMALL, "equal": FAMILIES["equal"], "constant": FAMILIES["constant"]}


@pytest.mark.parametrize("test", FAULTS)
def test_a_fault_fails_its_test(test):
    make, sentence = FAULTS[test]

    class Faulty(SmallMatrix):
        def backend(self):
            return make()

    assert sentence in failed_checks(Faulty, [test]).get(test, "")


def test_every_test_of_the_suite_has_its_fault():
    assert {check.name for check in BackendSuite.checks()} == FAULTS.keys()


def test_a_right_backend_passes():
    class Right(SmallMatrix):
        def backend(self):
            return Wrapped()

    quick = [name for name in FAULTS if name not in ("test_views", "test_every_value")]
    assert failed_checks(Right, quick) == {}
