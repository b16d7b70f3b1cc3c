"""Mistakes in random small models: found, at the right place, under the right code.

``python -m tests.planted SEEDS`` does the same for more of them, and prints a table.
"""

import pytest

from tests.planted.grading import Measured, grade, measure
from tests.planted.mistakes import MISTAKES
from tests.planted.training import make, record
from ttrace.pipeline import compare
from ttrace.report.model import Outcome

SEEDS = (4, 6, 9)
"""Between them they have every block, both optimizers, and every mistake."""


@pytest.fixture(scope="module", params=SEEDS)
def seed(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def measured(seed, tmp_path_factory) -> Measured:
    return measure(seed, tmp_path_factory.mktemp("planted"))


def test_the_same_training_passes_without_a_finding(seed, measured, tmp_path):
    report = compare(
        measured.trace,
        record(make(seed), tmp_path / "same"),
        tolerance=measured.tolerances,
        backend="numpy",
    )
    assert report.verdict is Outcome.PASS, report.summary
    assert report.diagnosis == ()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_where_it_is(seed, measured, mistake, tmp_path):
    graded = grade(seed, mistake, measured, tmp_path)
    if graded is None:
        return  # the model has nothing that it can be made in
    said = [(each.code, each.sentence) for each in graded.report.diagnosis]
    assert graded.found, graded.report.summary
    assert graded.place_right, (graded.expected, graded.report.first_divergence)
    assert graded.code_right is not False, (graded.expected, said)


def test_every_mistake_can_be_made_in_some_model():
    drawn = set()
    for number in SEEDS:
        for name, plant in MISTAKES.items():
            if plant(make(number), lambda values: values[0]) is not None:
                drawn.add(name)
    assert drawn == set(MISTAKES)
