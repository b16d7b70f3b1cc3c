"""Why a proposed map leaves tensors out, as values and as sentences."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.map_proposal.ignoring import with_ignored
from ttrace.map_proposal.reasons import Cause, Reason
from ttrace.mapping.rules import MapFile


@pytest.mark.parametrize(
    ("cause", "detail", "text"),
    [
        (Cause.NO_COUNTERPART, "", "no counterpart was found in the candidate"),
        (Cause.NOT_RECORDED, "loss", "the candidate recorded no loss at all"),
        (
            Cause.KEPT_ELSEWHERE,
            "",
            "a number that the candidate's optimizer keeps elsewhere",
        ),
        (Cause.SAME_CONTENT, "a/output/0", "holds what a/output/0 holds"),
        (Cause.SAME_CONTENT, "", "holds what compared tensors hold"),
        (Cause.KNOWN, "holds what it likes", "holds what it likes"),
    ],
)
def test_sentences(cause, detail, text):
    assert Reason(cause=cause, side=Side.REFERENCE, detail=detail).text == text


def test_a_sentence_that_begins_as_another_one_is_no_such_reason(tmp_path):
    """What was found out of a module says nothing of what other tensors hold."""
    random = np.random.default_rng(0)
    same, other = (random.normal(size=(4, 6)).astype(np.float32) for _ in range(2))
    common = {"step0/mb0/a/output/0": same, "step0/mb0/z/output/0": other}
    reference = memory_trace(
        {**common, "step0/mb0/b/output/0": same, "step0/mb0/c/output/0": other * 2}
    )
    known: dict[tuple[str, Kind, str | None], str] = {
        ("c", Kind.OUTPUT, "0"): "holds what a cache keeps"
    }
    found = with_ignored(
        MapFile(path=tmp_path / "map.toml", rules=()),
        reference,
        memory_trace(common),
        {Side.REFERENCE: known, Side.CANDIDATE: {}},
    )
    assert sorted(group.reason for group in found.left_out) == [
        "holds what a cache keeps",
        "holds what a/output/0 holds",
    ]
    assert all(group.num_tensors == 1 for group in found.left_out)
