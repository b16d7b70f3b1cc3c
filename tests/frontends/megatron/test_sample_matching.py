"""One global batch in Megatron's micro-batches of any size, on real processes."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ttrace.pipeline import compare, estimate_tolerance
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome

pytest.importorskip("megatron.core")

MODULE = "ttrace.examples.megatron_gpt.train"

OPTIONS = ("--global-batch-size", "8", "--train-iters", "1", "--num-layers", "2")

WRONG_SCALE = """
def after_build(args, models):
    for model in models:
        model.decoder.layers[1].self_attention.core_attention.softmax_scale = 1.0
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, pools) -> Iterator[Callable[..., Path]]:
    folder, numbers = tmp_path_factory.mktemp("samples"), itertools.count()

    def record(*options: str, ranks: int = 1, noise: int | None = None) -> Path:
        out = folder / f"trace{next(numbers)}"
        request = RecordRequest(out=out, noise_seed=noise)
        outcomes = pools.of_size(ranks).run(
            MODULE, (*OPTIONS, *options), environment=request.to_environment()
        )
        for outcome in outcomes:
            assert outcome.status == 0, outcome.output + outcome.error
        return out

    yield record


def test_micro_batches_of_other_sizes_agree_one_by_one(recorded, tmp_path):
    size = "--micro-batch-size"
    reference = recorded(size, "1")
    noise = [recorded(size, "1", noise=seed) for seed in (1, 2, 3)]
    tolerance = estimate_tolerance(reference, noise, backend="numpy")
    sharded = ("--tensor-model-parallel-size", "2", "--sequence-parallel")
    for candidate in (recorded(size, "4"), recorded(size, "2", *sharded, ranks=2)):
        report = compare(reference, candidate, tolerance=tolerance, backend="numpy")
        assert report.verdict is Outcome.PASS, report.summary
        assert "8 micro-batches of 1 sample in the reference" in report.summary
        assert report.coverage["output"].compared > 200
        assert report.coverage["grad_output"].compared > 200
        assert report.coverage["main_grad"].skipped == 0
    patch = tmp_path / "wrong_scale.py"
    patch.write_text(WRONG_SCALE)
    wrong = recorded(size, "4", "--patch", str(patch))
    report = compare(reference, wrong, tolerance=tolerance, backend="numpy")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.module == (
        "decoder.layers.1.self_attention.core_attention.scale_mask_softmax"
    )
