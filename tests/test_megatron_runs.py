"""The main job on real megatron-core processes: correct layouts pass, bugs are found.

Everything but the start of the processes is what ``ttrace check`` does: the reference,
three perturbed runs of it, the candidate, tolerances, verdicts. Workers are kept alive
between runs; a patched run gets fresh ones, since patches stay in a process.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.worker_pool import WorkerPool
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.judge.estimate import estimate_tolerance
from ttrace.judge.tolerance import ToleranceTable
from ttrace.report.report import Outcome, Report
from ttrace.run.switchboard import RecordRequest
from ttrace.stages import compare_traces
from ttrace.store.reader import Trace, open_trace

pytest.importorskip("megatron.core")

MODULE = "ttrace.examples.megatron_gpt.train"
BUGS = Path(__file__).with_name("bugs")

DENSE = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --global-batch-size 4 --train-iters 1"
).split()
EXPERTS = [*DENSE, *"--num-experts 4 --disable-bias-linear".split()]
TP = "--tensor-model-parallel-size 2".split()
SP = [*TP, "--sequence-parallel"]
EP = "--expert-model-parallel-size 2 --expert-tensor-parallel-size 1".split()


class MainJob:
    """Runs the stages of a check, with each reference recorded once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._pools = {size: WorkerPool(size) for size in (1, 2)}
        self._numbers = itertools.count()
        self._references: dict[tuple[str, ...], tuple[Trace, ToleranceTable]] = {}

    def check(
        self, model: Sequence[str], layout: Sequence[str], *, patch: Path | None = None
    ) -> Report:
        """Compares two processes of a layout with one process."""
        reference, tolerances = self._reference(tuple(model))
        options = [*model, *layout]
        if patch is None:
            candidate = self._record(self._pools[2], options)
        else:
            with WorkerPool(2) as fresh:
                candidate = self._record(fresh, [*options, "--patch", str(patch)])
        return compare_traces(
            reference, candidate, NumpyBackend(), tolerances=tolerances
        )

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _reference(self, model: tuple[str, ...]) -> tuple[Trace, ToleranceTable]:
        if model not in self._references:
            pool = self._pools[1]
            reference = self._record(pool, model)
            perturbed = [self._record(pool, model, draw) for draw in (1, 2, 3)]
            tolerances = estimate_tolerance(reference, perturbed, NumpyBackend())
            self._references[model] = (reference, tolerances)
        return self._references[model]

    def _record(
        self, pool: WorkerPool, options: Sequence[str], perturbation: int | None = None
    ) -> Trace:
        out = self._folder / f"run-{next(self._numbers)}"
        out.mkdir()
        request = RecordRequest(out=out, perturbation=perturbation)
        outcomes = pool.run(MODULE, options, environment=request.to_environment())
        for rank, outcome in enumerate(outcomes):
            assert outcome.status == 0, f"rank {rank}: {outcome.output}{outcome.error}"
        return open_trace(out)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Iterator[MainJob]:
    main_job = MainJob(tmp_path_factory.mktemp("runs"))
    yield main_job
    main_job.close()


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        pytest.param(DENSE, TP, id="tp2"),
        pytest.param(DENSE, SP, id="tp2-sp"),
        pytest.param(DENSE, [], id="dp2"),
        pytest.param(EXPERTS, [*SP, *EP], id="moe-tp2-sp-ep2"),
        pytest.param([*DENSE, "--bf16"], SP, id="tp2-sp-bf16"),
    ],
)
def test_correct_layout_passes(job, model, layout):
    report = job.check(model, layout)
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.failed == report.counts.unmatched == 0
    kinds = {tensor.kind for tensor in report.tensors if tensor.status == "passed"}
    assert kinds >= {
        *("param", "input", "output", "loss", "grad_output", "grad_input"),
        *("param_grad", "main_grad", "grad_norm", "learning_rate", "updated_param"),
    }


@pytest.mark.parametrize(
    ("model", "layout", "bug", "first"),
    [
        pytest.param(
            DENSE,
            SP,
            "final_layernorm.py",
            ("decoder.final_layernorm", "main_grad"),
            id="final-layernorm",
        ),
        pytest.param(
            EXPERTS,
            [*SP, *EP],
            "router_weight.py",
            ("decoder.layers.0.mlp.router", "main_grad"),
            id="router-weight",
        ),
        pytest.param(
            DENSE,
            TP,
            "embedding_mask.py",
            ("embedding.word_embeddings", "output"),
            id="embedding-mask",
        ),
    ],
)
def test_bug_diverges_at_the_right_tensor(job, model, layout, bug, first):
    report = job.check(model, layout, patch=BUGS / bug)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert (report.first_divergence.module, report.first_divergence.kind) == first
    margin = next(
        tensor.margin
        for tensor in report.tensors
        if tensor.id == report.first_divergence.id
    )
    assert margin is not None
    assert margin > 100
