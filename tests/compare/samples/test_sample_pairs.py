"""Pairs of samples that hold the same."""

from ttrace.compare.samples.sample_pairs import pair_samples
from ttrace.compare.samples.samples import Place


def held(*rows: bytes, microbatch: int = 0) -> dict[Place, bytes]:
    return {Place(microbatch=microbatch, row=row): x for row, x in enumerate(rows)}


def test_each_sample_is_taken_once_and_in_order():
    pairs = pair_samples([held(b"a", b"b", b"a")], [held(b"a", b"a", b"b")])
    assert [place.row for place in pairs.places[0]] == [0, 2, 1]
    assert pairs.repeated == {0}
    assert not pairs.missing and not pairs.extra


def test_what_only_one_run_has_is_named():
    pairs = pair_samples([held(b"a", b"b")], [held(b"b", b"c", b"b")])
    assert pairs.missing == [Place(microbatch=0, row=0)]
    assert [place.row for place in pairs.extra] == [1, 2]


def test_calls_of_a_closure_that_one_run_lacks_are_not_missing():
    later = held(b"a", microbatch=1)
    pairs = pair_samples([held(b"a"), later], [held(b"a")])
    assert set(pairs.places) == {0}
    assert not pairs.missing and not pairs.repeated
