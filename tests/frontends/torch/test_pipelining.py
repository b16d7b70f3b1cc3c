"""``torch.distributed.pipelining`` on several processes against one, by plain lines."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from ttrace.errors import UsageError
from ttrace.examples.worker_pool import WorkerPools
from ttrace.frontends.torch_parts.pipelining import parts_of
from ttrace.pipeline import compare
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome, Report

MODULE = "tests.factories.pipeline_job"

PIPELINES = [
    (2, ["ScheduleGPipe"]),
    (2, ["Schedule1F1B", "undivided"]),
    (2, ["Schedule1F1B", "frontend"]),
    (2, ["ScheduleInterleaved1F1B", "per=2"]),
    (2, ["ScheduleInterleaved1F1B", "per=2", "frontend"]),
    (2, ["ScheduleLoopedBFS", "per=2", "undivided"]),
    (2, ["ScheduleInterleavedZeroBubble", "per=2"]),
    (2, ["ScheduleZBVZeroBubble", "per=2"]),
    (2, ["ScheduleDualPipeV", "per=2"]),
    (4, ["Schedule1F1B", "dp=fsdp"]),
    (4, ["Schedule1F1B", "dp=ddp"]),
    (4, ["ScheduleInterleaved1F1B", "per=2", "dp=fsdp", "undivided"]),
]


class Job:
    """Runs of the job, on processes that stay.

    Args:
        folder: For traces and results.
        pools: The processes.
    """

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder = folder
        self._pools = pools
        self._numbers = itertools.count()
        self._references: dict[tuple[str, ...], Path] = {}

    def report(self, world_size: int, arguments: list[str]) -> tuple[Report, list]:
        """What a comparison with one process says; what training gave each rank."""
        key = ("one", "dp=2") if world_size == 4 else ("one",)
        key += ("tied",) if "tied" in arguments else ()
        if key not in self._references:
            self._references[key], _ = self.run(1, list(key))
        candidate, results = self.run(world_size, arguments)
        reference = self._references[key]
        return compare(reference, candidate, backend="numpy"), results

    def run(
        self, world_size: int, arguments: list[str], *, traced: bool = True
    ) -> tuple[Path, list]:
        number = next(self._numbers)
        request = RecordRequest(out=self._folder / f"trace{number}")
        environment = request.to_environment() if traced else {RECORD_VARIABLE: ""}
        name, *options = arguments
        result = self._folder / f"result{number}"
        outcomes = self._pools.of_size(world_size).run(
            MODULE, [name, str(result), *options], environment=environment
        )
        for outcome in outcomes:
            assert outcome.status == 0, outcome.output + outcome.error
        results = [torch.load(f"{result}.{rank}") for rank in range(world_size)]
        return request.out, results


@pytest.fixture(scope="module")
def job(tmp_path_factory, pools) -> Iterator[Job]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RECORD_VARIABLE, raising=False)
        yield Job(tmp_path_factory.mktemp("pipelines"), pools)


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "arguments"), PIPELINES)
def test_a_pipeline_passes_and_its_training_stays_the_same(job, world_size, arguments):
    report, traced = job.report(world_size, arguments)
    _, plain = job.run(world_size, arguments, traced=False)
    for of_rank, of_plain_rank in zip(traced, plain, strict=True):
        for x, y in zip(of_rank.values(), of_plain_rank.values(), strict=True):
            both = zip(x, y, strict=True) if isinstance(x, list) else [(x, y)]
            assert all(torch.equal(a, b) for a, b in both)
    assert report.verdict is Outcome.PASS, report.summary
    assert not report.counts.unmatched
    for kind, count in report.coverage.items():
        # No rank has all gradients, and the schedule gives nobody their norm.
        assert count.compared == (0 if kind == "grad_norm" else count.total), kind
    assert {"loss", "param", "main_grad", "updated_param", "param_grad", "output"} <= (
        report.coverage.keys()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "arguments"),
    [(2, ["ScheduleZBVZeroBubble", "per=2"]), (4, ["Schedule1F1B", "dp=fsdp"])],
)
def test_gradients_that_one_stage_does_not_divide_are_found(job, world_size, arguments):
    report, _ = job.report(world_size, [*arguments, "times=4"])
    assert report.verdict is Outcome.DIVERGED
    first = {2: "layers.1", 4: "layers.2"}[world_size]
    assert report.first_divergence.id.startswith(f"step0/{first}.norm/main_grad/")
    assert "4 times the reference" in report.diagnosis[0].sentence


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["Schedule1F1B"], ["ScheduleInterleaved1F1B", "per=2"]]
)
def test_a_weight_that_two_stages_share_is_compared_as_one(job, arguments):
    report, _ = job.report(2, [*arguments, "tied"])
    assert report.verdict is Outcome.PASS, report.summary
    assert not report.counts.unmatched
    for kind in ("param", "param_grad", "main_grad", "updated_param"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind
    assert (
        "layers.3.linear.weight of the candidate begins as a copy of its "
        "layers.0.linear.weight" in report.summary
    )


@pytest.mark.slow
def test_a_shared_weight_whose_gradient_is_not_summed_is_found(job):
    report, _ = job.report(2, ["Schedule1F1B", "tied", "unsummed"])
    assert report.verdict is Outcome.DIVERGED
    first = report.first_divergence
    assert (
        first.id.startswith("step0/layers.") and "linear/main_grad/weight" in first.id
    )


def test_one_model_is_its_only_part():
    model, several = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])
    assert list(parts_of(model)) == [model]
    assert list(parts_of([model])) == [model]
    assert list(parts_of(several)) == [several]


def test_several_modules_that_are_no_stages_are_refused():
    with pytest.raises(UsageError, match="no PipelineStage") as refused:
        parts_of([nn.Linear(2, 2), nn.Linear(2, 2)])
    assert "ModuleDict" in str(refused.value)


@pytest.mark.parametrize("given", [None, [], [3], iter([nn.Linear(2, 2)])])
def test_what_is_no_module_is_refused(given):
    with pytest.raises(UsageError, match="is no module") as refused:
        parts_of(given)
    assert "give it the model that the training loop calls" in str(refused.value)
