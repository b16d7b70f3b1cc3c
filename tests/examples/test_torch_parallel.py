"""Parallelism by hand, in plain torch: every layout passes against one process.

Two processes of each are traced and compared as ``ttrace check`` does it; then two bugs
of the zoo are put in.
"""

from collections.abc import Iterator

import pytest
import torch

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import UsageError
from ttrace.examples.bug_zoo.registry import select_bugs
from ttrace.examples.bug_zoo.runner import run_bug
from ttrace.examples.main_job import Launch, MainJob
from ttrace.examples.torch_parallel.arguments import (
    parse_arguments,
    require_divisible,
)
from ttrace.examples.torch_parallel.data import IGNORED, TokenSource
from ttrace.examples.torch_parallel.place import Parallelism, Place
from ttrace.examples.torch_parallel.ring import attend, hidden_keys, merge
from ttrace.report.model import Outcome

SCRIPT = "ttrace.examples.torch_parallel.train"
OPTIONS = ("--train-iters", "1", "--uneven-lengths")


@pytest.fixture(scope="module")
def job(pools) -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=300, pools=pools) as main_job:
        yield main_job


def place_of(parallelism: Parallelism, rank: int, size: int) -> Place:
    return Place(
        parallelism=parallelism, rank=rank, size=size, device=torch.device("cpu")
    )


@pytest.mark.parametrize("parallelism", list(Parallelism))
def test_two_processes_compute_what_one_does(job, parallelism):
    report = job.check(
        Launch(script=SCRIPT, options=OPTIONS),
        Launch(
            script=SCRIPT,
            options=(*OPTIONS, "--parallelism", parallelism),
            world_size=2,
        ),
    )
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.passed == report.counts.total
    kinds = {tensor.kind for tensor in report.tensors if tensor.status == "passed"}
    assert kinds == {
        *("param", "input", "output", "loss", "grad_output", "grad_input"),
        *("param_grad", "main_grad", "grad_norm", "learning_rate"),
        *("optimizer_state", "updated_param"),
    }


@pytest.mark.parametrize("name", ["ring_gradients_stay", "layernorm_hook_averages"])
def test_a_bug_is_found_at_its_place(job, name):
    (exhibit,) = select_bugs([name])
    result = run_bug(exhibit, job)
    assert result.clean == "pass"
    assert result.found
    assert result.module_right, result.first_divergence
    assert result.diagnosis_right is not False  # None where no diagnosis says it


def test_chunks_merge_to_the_attention_over_all_keys():
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 8, 3, 4, generator=generator).double()
    first, second = (
        attend(query, key[:, :5], value[:, :5], torch.zeros(8, 5, dtype=torch.bool)),
        attend(query, key[:, 5:], value[:, 5:], torch.zeros(8, 3, dtype=torch.bool)),
    )
    out, lse = merge(*first, *second)
    expected, expected_lse = attend(
        query, key, value, torch.zeros(8, 8, dtype=torch.bool)
    )
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


def test_keys_are_hidden_by_their_place_in_the_sequence():
    query = torch.zeros(1, 2, 1, 1)
    assert hidden_keys(query, rank=1, source=1).tolist() == [[False, True], [False] * 2]
    assert not hidden_keys(query, rank=1, source=0).any()
    assert hidden_keys(query, rank=0, source=1).all()


@pytest.mark.parametrize("parallelism", [Parallelism.DATA, Parallelism.RING])
def test_the_ranks_together_have_the_tokens_of_one_process(parallelism):
    def batches(rank: int, size: int):
        data_size = size if parallelism is Parallelism.DATA else 1
        source = TokenSource(
            vocab_size=50,
            seq_length=8,
            micro_batch_size=2,
            num_microbatches=4 // data_size,
            uneven_lengths=True,
            seed=0,
            place=place_of(parallelism, rank, size),
        )
        return source.micro_batches(0)

    whole, parts = batches(0, 1), [batches(rank, 2) for rank in range(2)]
    if parallelism is Parallelism.DATA:
        labels = [parts[n % 2][n // 2].labels for n in range(4)]
    else:
        labels = [
            torch.cat((a.labels, b.labels), 1) for a, b in zip(*parts, strict=True)
        ]
    for expected, found in zip(whole, labels, strict=True):
        assert torch.equal(expected.labels, found)
    assert any((batch.labels == IGNORED).any() for batch in whole)


@pytest.mark.parametrize(
    ("parallelism", "size", "option"),
    [
        (Parallelism.DATA, 8, "--global-batch-size"),
        (Parallelism.ULYSSES, 8, "--num-attention-heads"),
        (Parallelism.RING, 3, "--seq-length"),
        (Parallelism.TENSOR, 3, "--num-attention-heads"),
        (Parallelism.PIPELINE, 4, "--num-layers"),
    ],
)
def test_work_that_cannot_be_divided_is_refused(parallelism, size, option):
    with pytest.raises(UsageError) as error:
        require_divisible(parse_arguments([]), place_of(parallelism, 0, size))
    assert str(error.value).startswith(
        "the work cannot be divided evenly\n"
        f"  where:    {option} of --parallelism {parallelism}, {size} processes\n"
    )
    assert "to do:    change it, or the number of processes" in str(error.value)
