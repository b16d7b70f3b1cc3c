"""Mistakes in random small models: found, at the right place, under the right code.

``python -m tests.planted SEEDS`` does the same for more of them, and prints a table.
"""

import pytest

from tests.planted.grading import Ground, Measured, grade, judge, measure
from tests.planted.grounds import ground_named
from ttrace.report.model import Outcome

TORCH = ground_named("torch")
TORCH_SEEDS = (4, 6, 9)
"""Between them they have every block, both optimizers, and every mistake."""


@pytest.fixture(scope="module", params=TORCH_SEEDS)
def seed(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def measured(seed, tmp_path_factory) -> Measured:
    return measure(TORCH, seed, tmp_path_factory.mktemp("planted"))


def require_right(
    ground: Ground, seed: int, mistake: str, measured: Measured, folder
) -> None:
    graded = grade(ground, seed, mistake, measured, folder)
    if graded is None:
        return  # the model has nothing that it can be made in
    said = [(each.code, each.sentence) for each in graded.report.diagnosis]
    assert graded.found, graded.report.summary
    assert graded.place_right, (graded.expected, graded.report.first_divergence)
    assert graded.code_right is not False, (graded.expected, said)


def test_the_same_training_passes_without_a_finding(seed, measured, tmp_path):
    report = judge(TORCH, TORCH.make(seed), measured, tmp_path / "same")
    assert report.verdict is Outcome.PASS, report.summary
    assert report.diagnosis == ()


@pytest.mark.parametrize("mistake", TORCH.mistakes)
def test_a_mistake_is_found_where_it_is(seed, measured, mistake, tmp_path):
    require_right(TORCH, seed, mistake, measured, tmp_path)


def test_every_mistake_can_be_made_in_some_model():
    drawn = {
        name
        for number in TORCH_SEEDS
        for name, plant in TORCH.mistakes.items()
        if plant(TORCH.make(number), lambda values: values[0]) is not None
    }
    assert drawn == set(TORCH.mistakes)
