"""The query and value parts of Megatron's fused bias, behind the noise of its keys.

The gradient of a key's bias is nothing but rounding, which Adam makes updates of.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from ttrace.backends.numpy_backend import NumpyBackend  # noqa: E402
from ttrace.examples.main_job import Launch, MainJob  # noqa: E402
from ttrace.pipeline import compare_traces  # noqa: E402
from ttrace.report.model import Outcome  # noqa: E402

REFERENCE = Launch(
    script="ttrace.examples.megatron_gpt.train",
    options=("--num-layers", "1", "--seq-length", "16", "--train-iters", "1"),
)
TENSOR_PARALLEL = replace(
    REFERENCE,
    options=(*REFERENCE.options, "--tensor-model-parallel-size", "2"),
    world_size=2,
)
BIAS = "step0/decoder.layers.0.self_attention.linear_qkv/updated_param/bias"

LONG_STEPS = '''
import torch

def after_wrap(args, config, chunks, optimizer):
    """Query and value take a step that is 0.05 % too long."""
    (bias,) = [
        parameter
        for chunk in chunks
        for name, parameter in chunk.named_parameters()
        if name.endswith("linear_qkv.bias")
    ]
    shape = (-1, 3, args.hidden_size // args.num_attention_heads)
    original = optimizer.step

    def step(*args):
        before = bias.detach().clone().view(shape)
        result = original(*args)
        with torch.no_grad():
            after = bias.view(shape)
            after[:, (0, 2)] += 5e-4 * (after[:, (0, 2)] - before[:, (0, 2)])
        return result

    optimizer.step = step
'''


@pytest.fixture(scope="module")
def job() -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=600) as main_job:
        yield main_job


def test_a_wrong_update_of_two_parts_is_found(job: MainJob, tmp_path: Path):
    assert job.check(REFERENCE, TENSOR_PARALLEL).verdict is Outcome.PASS
    path = tmp_path / "long_steps.py"
    path.write_text(LONG_STEPS)
    report = job.check(REFERENCE, replace(TENSOR_PARALLEL, patches=(path,)))
    assert report.verdict is Outcome.DIVERGED
    (failed,) = report.failed()
    assert failed.id == BIAS
    assert failed.failed_part is not None
    assert failed.failed_part.name.startswith("0:16, 32:64")


def test_a_correct_run_passes_without_noise_runs(job: MainJob):
    reference, candidate = map(job.record, (REFERENCE, TENSOR_PARALLEL))
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict is Outcome.PASS and report.is_uncalibrated
    (bias,) = [tensor for tensor in report.tensors if tensor.id == BIAS]
    assert bias.noise_dominated
