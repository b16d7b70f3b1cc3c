"""Trainer, Accelerate and Lightning on two processes against one, and mistakes in them.

What ``ttrace check`` does, on workers that stay alive.
"""

from collections.abc import Iterator

import pytest

from tests.paths import ROOT
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.examples.bug_zoo.registry import select_bugs
from ttrace.examples.bug_zoo.runner import run_bug
from ttrace.examples.layout_matrix.huggingface_cases import huggingface_cases
from ttrace.examples.layout_matrix.runner import run_case
from ttrace.examples.main_job import Launch, MainJob
from ttrace.report.model import Outcome

LIGHTNING = "tests.factories.lightning_job"
CASES = {case.name: case for case in huggingface_cases()}


@pytest.fixture(scope="module")
def job() -> Iterator[MainJob]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with MainJob(NumpyBackend(), timeout_s=300) as main_job:
            yield main_job


@pytest.mark.parametrize(
    "name",
    ["trainer-llama/fsdp2/fp32/8", "trainer-gpt2/ddp/fp32/8"]
    + ["accelerate-llama/fsdp2/fp32/8"],
)
def test_a_correct_layout_passes(job, name):
    result = run_case(CASES[name], job)
    assert result.passed, result.reason
    assert result.num_compared > 1500


@pytest.mark.parametrize("name", ["tokens_of_one_device", "model_zero_grad"])
def test_bugs_of_the_zoo_are_found(job, name):
    (exhibit,) = select_bugs([name])
    result = run_bug(exhibit, job)
    assert result.as_expected, result


def test_every_case_has_a_name_of_its_own():
    assert len(CASES) == len(huggingface_cases()) == 15


def test_lightning_under_ddp_passes(job):
    report = job.check(
        Launch(script=LIGHTNING, options=()),
        Launch(script=LIGHTNING, options=(), world_size=2),
    )
    assert report.verdict is Outcome.PASS, report.first_divergence
    assert report.counts.passed == report.counts.total > 150


def test_clipping_between_the_accumulated_micro_batches_is_found(job):
    report = job.check(
        Launch(script=LIGHTNING, options=()),
        Launch(script=LIGHTNING, options=("clips-early",), world_size=2),
    )
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/net.0/main_grad/weight"
