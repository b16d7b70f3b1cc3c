"""The same in JAX, on one model: every mistake compiles a program of its own."""

import pytest

from tests.planted.grading import Measured, judge, measure
from tests.planted.grounds import ground_named
from tests.planted.test_planted import require_right
from ttrace.report.model import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.jax]

JAX = ground_named("jax")
SEED = 3


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Measured:
    return measure(JAX, SEED, tmp_path_factory.mktemp("planted"))


def test_the_same_training_passes_without_a_finding(measured, tmp_path):
    report = judge(JAX, JAX.make(SEED), measured, tmp_path / "same")
    assert report.verdict is Outcome.PASS, report.summary
    assert report.diagnosis == ()


@pytest.mark.parametrize("mistake", JAX.mistakes)
def test_a_mistake_is_found_where_it_is(measured, mistake, tmp_path):
    require_right(JAX, SEED, mistake, measured, tmp_path)
