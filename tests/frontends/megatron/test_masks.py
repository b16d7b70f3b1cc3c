"""A mask that one run gives to the model, and the other builds inside."""

import pytest

pytest.importorskip("megatron.core")

from ttrace.backends.numpy_backend import NumpyBackend  # noqa: E402
from ttrace.examples.main_job import Launch, MainJob  # noqa: E402
from ttrace.report.model import Outcome  # noqa: E402

SCRIPT = "ttrace.examples.megatron_gpt.train"
MODEL = tuple(
    "--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 8 "
    "--vocab-size 32 --train-iters 1 --micro-batch-size 1 --global-batch-size 1".split()
)
MASK = "--attention-mask"
CP2 = ("--context-parallel-size", "2")


@pytest.fixture(scope="module")
def job(pools):
    with MainJob(NumpyBackend(), num_noise_runs=1, pools=pools) as main_job:
        yield main_job


@pytest.mark.parametrize(
    ("of_reference", "of_candidate", "side"),
    [((), (MASK, *CP2), "candidate"), ((MASK,), CP2, "reference")],
)
def test_it_is_skipped_with_the_reason(job, of_reference, of_candidate, side):
    report = job.check(
        Launch(script=SCRIPT, options=(*MODEL, *of_reference)),
        Launch(script=SCRIPT, options=(*MODEL, *of_candidate), world_size=2),
    )
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == 0
    reasons = {
        tensor.id: tensor.reason
        for tensor in report.tensors
        if f"{side} only: an input without gradient" in (tensor.reason or "")
    }
    attention = "decoder.layers.0.self_attention.core_attention"
    assert f"step0/mb0/{attention}.scale_mask_softmax/input/1" in reasons
    assert f"step0/mb0/{attention}/input/3" in reasons
