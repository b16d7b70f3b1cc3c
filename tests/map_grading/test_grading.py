"""A small part of the grading; ``make map-grades`` does the whole."""

import pytest

pytest.importorskip("flax")
pytest.importorskip("torch")

from tests.map_grading.cnn_linen import PAIR  # noqa: E402
from tests.map_grading.grading import grade_pair  # noqa: E402


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_map_from_the_buggy_pair_does_not_hide_the_bug(tmp_path):
    clean, wrong = grade_pair(PAIR, ["clean", "padding"], tmp_path)
    assert not clean.is_found, clean
    assert clean.report.counts.unmatched == 0
    assert wrong.is_found and wrong.is_at_the_right_place, wrong
    assert clean.proposal.underived == wrong.proposal.underived == ()
