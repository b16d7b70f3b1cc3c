"""Alignment: who meets whom, in which order, and why somebody stands alone."""

import numpy as np

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.align import (
    Match,
    Skipped,
    Unmatched,
    align,
    is_rank_filtered,
)
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id

ONE = np.ones(2, np.float32)


def info_of(*texts, **fields):
    return memory_trace(dict.fromkeys(texts, ONE), **fields).info


def entry_of(alignment, text):
    (entry,) = [e for e in alignment.entries if str(e.id) == text]
    return entry


def ids(alignment):
    return [str(entry.id) for entry in alignment.entries]


def test_same_tensors_match_in_the_order_of_the_reference():
    a, b = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
    alignment = align(info_of(a, b), info_of(b, a))
    assert ids(alignment) == [a, b]
    assert all(isinstance(entry, Match) for entry in alignment.entries)
    assert alignment.matches == alignment.entries


def test_newcomers_stand_behind_their_predecessor():
    a, b, c = (f"step0/mb0/{name}/output/0" for name in "abc")
    extra = "step0/mb0/extra/output/0"
    alignment = align(info_of(a, b, c), info_of(a, extra, b, c))
    assert ids(alignment) == [a, extra, b, c]
    assert entry_of(alignment, extra) == Unmatched(
        id=parse_tensor_id(extra), present=Side.CANDIDATE
    )


def test_missing_tensor_is_unmatched_at_its_place():
    a, b, c = (f"step0/mb0/{name}/output/0" for name in "abc")
    alignment = align(info_of(a, b, c), info_of(a, c))
    assert ids(alignment) == [a, b, c]
    assert entry_of(alignment, b) == Unmatched(
        id=parse_tensor_id(b), present=Side.REFERENCE
    )


def test_pipeline_stages_keep_their_order():
    """Positions count per rank: the second stage's are as low as the first's."""
    first = [f"step0/mb0/layers.{n}/output/0" for n in (0, 1)]
    second = [f"step0/mb0/layers.{n}/output/0" for n in (2, 3)]
    staged = memory_trace(
        {text: Tensor(full=ONE, holders=(0,)) for text in first}
        | {text: Tensor(full=ONE, holders=(1,)) for text in second},
        {"pp": 2},
    )
    assert ids(align(staged.info, staged.info)) == first + second


def test_skipped_on_one_side_with_the_reason():
    text = "step0/mb0/router/output/0"
    other = "step0/mb0/a/output/0"
    for skipping, present in ((0, 1), (1, 0)):
        infos = [info_of(other), info_of(other)]
        infos[skipping] = info_of(other, skipped={text: "no layout rule"})
        infos[present] = info_of(other, text)
        side = ("reference", "candidate")[skipping]
        assert entry_of(align(*infos), text) == Skipped(
            id=parse_tensor_id(text), reason=f"{side}: no layout rule"
        )


def test_skipped_tensors_keep_their_place_and_are_listed_once():
    a, b = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
    info = info_of(a, skipped={b: "why"})
    alignment = align(info, info)
    assert ids(alignment) == [a, b]
    assert entry_of(alignment, b) == Skipped(
        id=parse_tensor_id(b), reason="reference: why"
    )


def test_filter_explains_an_absence_only_where_it_applies():
    kept, left = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
    capture = CaptureFilter(modules=("a",)).to_json()
    reference = info_of(kept, left)
    candidate = info_of(kept, capture=capture)
    assert entry_of(align(reference, candidate), left) == Skipped(
        id=parse_tensor_id(left), reason="candidate: left out by a capture filter"
    )
    lacking = info_of("step0/mb0/a/output/1", capture=capture)
    assert isinstance(entry_of(align(reference, lacking), kept), Unmatched)


def test_rank_filter_explains_what_no_recorded_rank_holds():
    held, elsewhere = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
    reference = info_of(held, elsewhere)
    candidate = info_of(held, sizes={"pp": 2}, recorded=[0])
    assert is_rank_filtered(candidate) and not is_rank_filtered(reference)
    assert entry_of(align(reference, candidate), elsewhere) == Skipped(
        id=parse_tensor_id(elsewhere),
        reason="candidate: not held by the ranks that were recorded",
    )


def test_recomputation_meets_the_first_forward():
    text = "step0/mb0/a/output/0"
    again = f"{text}/recompute"
    reference = info_of(text)
    candidate = info_of(text, again)
    entry = entry_of(align(reference, candidate), again)
    assert isinstance(entry, Match)
    assert str(entry.reference.id) == text and str(entry.candidate.id) == again


def test_recomputation_on_both_sides_meets_itself():
    text = "step0/mb0/a/output/0"
    info = info_of(text, f"{text}/recompute")
    entry = entry_of(align(info, info), f"{text}/recompute")
    assert isinstance(entry, Match)
    assert str(entry.reference.id) == f"{text}/recompute"


def test_recomputation_in_the_reference_only_is_skipped():
    text = "step0/mb0/a/output/0"
    alignment = align(info_of(text, f"{text}/recompute"), info_of(text))
    assert entry_of(alignment, f"{text}/recompute") == Skipped(
        id=parse_tensor_id(f"{text}/recompute"),
        reason="recomputed in the reference only; nothing to check",
    )


def test_recomputation_of_what_the_reference_skipped():
    text, other = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
    alignment = align(
        info_of(other, skipped={text: "no layout rule"}),
        info_of(other, text, f"{text}/recompute"),
    )
    for each in (text, f"{text}/recompute"):
        assert entry_of(alignment, each) == Skipped(
            id=parse_tensor_id(each), reason="reference: no layout rule"
        )


def test_unknown_recomputation_is_unmatched():
    again = "step0/mb0/a/output/0/recompute"
    alignment = align(info_of("step0/mb0/b/output/0"), info_of(again))
    assert entry_of(alignment, again) == Unmatched(
        id=parse_tensor_id(again), present=Side.CANDIDATE
    )
