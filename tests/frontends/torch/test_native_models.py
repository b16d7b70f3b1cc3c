"""README's plain lines on models that torch parallelizes: real processes against one.

Nothing is described by hand. Correct layouts pass with every tensor compared, and bugs
are found where they are.
"""

import itertools
from pathlib import Path

import pytest

from ttrace.examples.worker_pool import WorkerPools
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.pipeline import compare, estimate_tolerance
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

MODULE = "tests.factories.native_job"

LAYOUTS = [
    ("ddp", 2),
    ("fsdp", 2),
    ("hsdp", 4),
    ("fsdp1", 2),
    ("fsdp1-flat", 2),
    ("fsdp1-flat:SHARD_GRAD_OP", 2),
    ("fsdp1:NO_SHARD", 2),
    ("fsdp1:HYBRID_SHARD", 4),
    ("fsdp-dim1", 2),
    ("replicate", 2),
    ("replicate-fsdp", 2),
    ("tp", 2),
    ("sp", 2),
    ("tp-fsdp", 4),
]


class Job:
    """Runs of the job against one run of one process.

    Args:
        folder: For the traces.
        pools: Their processes.
    """

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder = folder
        self._pools = pools
        self._numbers = itertools.count()
        self._references: dict[str, tuple[Path, ToleranceTable]] = {}

    def report(
        self, layout: str, world_size: int, *bug: str, one: str = "one"
    ) -> Report:
        """What a comparison with one process says."""
        if one not in self._references:
            reference = self._recorded([one], 1)
            noise = [self._recorded([one], 1, noise_seed=seed) for seed in (1, 2)]
            table = estimate_tolerance(reference, noise, backend="numpy")
            self._references[one] = reference, table
        reference, tolerance = self._references[one]
        candidate = self._recorded([layout, *bug], world_size)
        return compare(reference, candidate, tolerance=tolerance, backend="numpy")

    def _recorded(
        self, arguments: list[str], world_size: int, noise_seed: int | None = None
    ) -> Path:
        out = self._folder / f"trace{next(self._numbers)}"
        request = RecordRequest(out=out, noise_seed=noise_seed)
        outcomes = self._pools.of_size(world_size).run(
            MODULE, arguments, environment=request.to_environment()
        )
        for outcome in outcomes:
            assert outcome.status == 0, outcome.output + outcome.error
        return out


@pytest.fixture(scope="module")
def job(tmp_path_factory, pools) -> Job:
    return Job(tmp_path_factory.mktemp("native"), pools)


@pytest.mark.parametrize(("layout", "world_size"), LAYOUTS)
def test_a_correct_layout_passes_with_nothing_written_by_hand(job, layout, world_size):
    report = job.report(layout, world_size)
    assert report.verdict is Outcome.PASS, report.first_divergence
    # Of a shard of the gradients nobody knows the norm; all else is compared.
    skipped = {t.id: t.reason for t in report.tensors if t.status == "skipped"}
    # FSDP1's own clipping tells it.
    is_known = layout.startswith(("ddp", "fsdp1", "replicate"))
    norms = set() if is_known else {f"step{n}/@root/grad_norm" for n in (0, 1)}
    assert skipped.keys() == norms
    assert all("does not communicate" in reason for reason in skipped.values())
    assert report.counts.passed == report.counts.total - len(norms) > 1400


def test_parameters_that_no_loss_uses_are_not_said_to_be_hidden(job):
    report = job.report("fsdp-list", 2, one="one-spare")
    assert report.verdict is Outcome.PASS, report.first_divergence
    skipped = {t.id for t in report.tensors if t.status == "skipped"}
    assert skipped == {f"step{n}/@root/grad_norm" for n in (0, 1)}
    spare = {t.kind for t in report.tensors if "/spare/" in t.id}
    assert spare == {"param", "updated_param"}


def test_a_forward_that_bypasses_ddp_is_found_in_the_first_gradient(job):
    report = job.report("ddp", 2, "bypassed")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence.id == "step0/tok/main_grad/weight"
    assert report.diagnosis[0].code == "replicas_differ"
    assert {t.status for t in report.tensors if t.id.startswith("step0/mb")} == {
        "passed"
    }


@pytest.mark.parametrize("layout", ["fsdp", "fsdp1"])
def test_clipping_by_a_local_norm_is_found_in_what_is_clipped(job, layout):
    report = job.report(layout, 2, "local-norm")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence.id == "step0/tok/clipped_grad/weight"
    gradients = [
        t for t in report.tensors if t.id.startswith("step0/") and ("main_grad" in t.id)
    ]
    assert {t.status for t in gradients} == {"passed"}


def test_a_loss_that_is_divided_by_the_ranks_once_more_is_found_where_it_begins(job):
    report = job.report("ddp", 2, "divided-twice")
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence.id == "step0/mb0/head/grad_output/0"
    (scaled,) = [d for d in report.diagnosis if d.code == "scaled"]
    assert "0.5 times" in scaled.sentence
