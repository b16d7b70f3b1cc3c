"""FP32 on one process against BF16 under FSDP's mixed precision."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from tests.paths import ROOT
from ttrace.examples.worker_pool import WorkerPools
from ttrace.frontends.torch_parts.mixed_precision import mixed_precision_of
from ttrace.pipeline import compare, estimate_tolerance
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.precision_job"

Compared = Callable[..., Report]


def test_a_plain_model_has_none():
    assert mixed_precision_of([nn.Linear(1, 1)]) == "off"


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Iterator[Compared]:
    """By noise of roundings to BF16, as ``ttrace check`` measures it."""
    folder, numbers = tmp_path_factory.mktemp("precision"), itertools.count()
    with WorkerPools() as pools, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))

        def run(world_size: int, *arguments: str, noise: int | None = None) -> Path:
            request = RecordRequest(
                out=folder / f"trace{next(numbers)}",
                noise_seed=noise,
                noise_dtype=None if noise is None else "bfloat16",
            )
            outcomes = pools.of_size(world_size).run(
                MODULE, arguments, environment=request.to_environment()
            )
            for outcome in outcomes:
                assert outcome.status == 0, outcome.output + outcome.error
            return request.out

        reference = run(1, "one")
        noise = [run(1, "one", noise=seed) for seed in (1, 2)]
        tolerance = estimate_tolerance(reference, noise, backend="numpy")

        def report(*candidate: str) -> Report:
            return compare(
                reference, run(2, *candidate), tolerance=tolerance, backend="numpy"
            )

        yield report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "policy"),
    [
        ("fsdp2", "parameters bfloat16, reduction float32, outputs float32"),
        ("fsdp1", "parameters bfloat16, reduction float32"),
    ],
)
def test_another_precision_passes_and_is_said(compared, layout, policy):
    report = compared(layout)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.setup.differences["mixed_precision"] == ("off", policy)
    assert report.remarks == (
        "the runs differ in precision, which is no other set-up: mixed_precision off "
        f"in the reference, {policy} in the candidate",
    )
    for kind in ("output", "main_grad", "updated_param"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind


@pytest.mark.slow
def test_a_wrong_loss_is_found_in_another_precision(compared):
    report = compared("fsdp2", "loss")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence.phase == "backward"
