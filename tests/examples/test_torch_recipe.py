"""A recipe with torch's own parallelism: layouts pass, a bug of the zoo is found."""

from collections.abc import Iterator

import pytest
import torch

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import UsageError
from ttrace.examples.bug_zoo.registry import select_bugs
from ttrace.examples.bug_zoo.runner import run_bug
from ttrace.examples.main_job import Launch, MainJob
from ttrace.examples.torch_recipe.arguments import (
    Layout,
    num_microbatches,
    parse_arguments,
)
from ttrace.examples.torch_recipe.llama import positions_in, visible_keys
from ttrace.examples.torch_recipe.optimization import orthogonalized
from ttrace.report.model import Outcome

SCRIPT = "ttrace.examples.torch_recipe.train"
OPTIONS = ("--train-iters", "1")  # the bug's reference is the same one


@pytest.fixture(scope="module")
def job() -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=300) as main_job:
        yield main_job


@pytest.mark.parametrize("layout", [Layout.SUM, Layout.FSDP2, Layout.TP, Layout.PP])
def test_two_processes_compute_what_one_does(job, layout):
    report = job.check(
        Launch(script=SCRIPT, options=OPTIONS),
        Launch(script=SCRIPT, options=(*OPTIONS, "--layout", layout), world_size=2),
    )
    assert report.verdict is Outcome.PASS, report.summary


def test_a_bug_is_found_at_its_place(job):
    (exhibit,) = select_bugs(["optimizer_before_sharding"])
    result = run_bug(exhibit, job)
    assert result.as_expected, result.reason
    assert result.diagnosis_right is not False


def test_documents_have_positions_of_their_own_and_see_only_themselves():
    documents = torch.tensor([[0, 0, 0, 1, 1, 2]])
    assert positions_in(documents).tolist() == [[0, 1, 2, 0, 1, 0]]
    visible = visible_keys(documents)[0]
    assert visible[4].tolist() == [False, False, False, True, True, False]
    assert visible.diagonal().all()


def test_steps_of_muon_bring_singular_values_near_one():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.6 and values.max() < 1.3


def test_samples_that_cannot_be_divided_are_a_mistake_of_the_user():
    args = parse_arguments(["--global-batch-size", "6", "--micro-batch-size", "2"])
    assert num_microbatches(args, 1) == 3
    with pytest.raises(UsageError, match="cannot be divided evenly") as caught:
        num_microbatches(args, 2)
    assert caught.value.expected == "a multiple of 4"
