"""``torch.distributed.pipelining`` on two processes against one, by the plain lines."""

import os
import subprocess
import sys

import pytest
import torch

from tests.paths import ROOT
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

JOB = ROOT / "tests" / "factories" / "pipeline_job.py"

pytestmark = pytest.mark.slow


def run(tmp_path, schedule: str, *, traced: bool) -> tuple[Trace | None, list]:
    """The trace, and what training gave on every rank."""
    name = f"{schedule}_{traced}"
    size = 1 if schedule == "one" else 2
    request = RecordRequest(out=tmp_path / name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop(RECORD_VARIABLE, None)
    if traced:
        environment |= request.to_environment()
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={size}",
    ]
    subprocess.run(
        [sys.executable, *launcher, str(JOB), schedule, str(tmp_path / f"{name}.pt")],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    results = [torch.load(tmp_path / f"{name}.pt.{rank}") for rank in range(size)]
    return open_trace(request.out) if traced else None, results


@pytest.mark.parametrize("schedule", ["ScheduleGPipe", "Schedule1F1B"])
def test_a_pipeline_passes_and_its_training_stays_the_same(schedule, tmp_path):
    whole, _ = run(tmp_path, "one", traced=True)
    pipeline, traced = run(tmp_path, schedule, traced=True)
    _, plain = run(tmp_path, schedule, traced=False)
    for of_rank, of_plain_rank in zip(traced, plain, strict=True):
        for x, y in zip(of_rank.values(), of_plain_rank.values(), strict=True):
            both = zip(x, y, strict=True) if isinstance(x, list) else [(x, y)]
            assert all(torch.equal(a, b) for a, b in both)
    assert whole is not None and pipeline is not None
    report = compare_traces(whole, pipeline, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.summary
    assert not report.counts.unmatched
    for kind, count in report.coverage.items():
        # No rank has all gradients, and the schedule gives nobody their norm.
        assert count.compared == (0 if kind == "grad_norm" else count.total), kind
    assert {"loss", "param", "main_grad", "updated_param", "param_grad", "output"} <= (
        report.coverage.keys()
    )
