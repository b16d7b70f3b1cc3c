"""What ``ttrace demo`` runs: a live bug of megatron-core, and a correct layout."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ttrace.check_job import run_check
from ttrace.check_request import CheckRequest, noise_run_name
from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress
from ttrace.launch.stages import OnStage
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import open_trace

_MODEL = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --num-experts 4 --moe-router-topk 2 --disable-bias-linear "
    "--micro-batch-size 2 --global-batch-size 4 --train-iters 1"
).split()

_TENSOR_PARALLEL = ["--tensor-model-parallel-size", "2", "--sequence-parallel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One candidate of the demo.

    Attributes:
        name: Name of its folder.
        title: What it shows, in words.
        layout: Options that only the candidate gets.
        expected: The verdict that ttrace must come to.
    """

    name: str
    title: str
    layout: tuple[str, ...]
    expected: Outcome


SCENARIOS = (
    Scenario(
        name="bug",
        title="MoE GPT, TP=2 with sequence parallelism, expert TP=1, EP=1: "
        "megatron-core 0.16.1 reduces the experts' gradients over the wrong group "
        "(repaired in Megatron-LM PR 5916)",
        layout=(
            *_TENSOR_PARALLEL,
            *("--expert-tensor-parallel-size", "1"),
            *("--expert-model-parallel-size", "1"),
        ),
        expected=Outcome.DIVERGED,
    ),
    Scenario(
        name="clean",
        title="the same model, TP=2 with sequence parallelism, EP=2",
        layout=(
            *_TENSOR_PARALLEL,
            *("--expert-tensor-parallel-size", "1"),
            *("--expert-model-parallel-size", "2"),
        ),
        expected=Outcome.PASS,
    ),
)


def run_scenario(
    scenario: Scenario,
    out: Path,
    backend: Backend,
    *,
    earlier: Path | None = None,
    on_stage: OnStage,
    progress: Progress | None = None,
) -> Report:
    """Runs the main job for one scenario: one process against two.

    Args:
        scenario: Which.
        out: Folder for its traces, logs and report; an earlier demo is replaced.
        backend: Computes the statistics.
        earlier: Folder of another scenario: all have the same reference, which is not
            run again.
        on_stage: Told what begins, in words.
        progress: Called as comparisons proceed.

    Raises:
        TtraceError: A run failed, or its trace cannot be read.
    """
    script = ["-m", "ttrace.examples.megatron_gpt.train"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    request = CheckRequest(
        reference=[sys.executable, *script, *_MODEL],
        candidate=[sys.executable, *launcher, *script, *_MODEL, *scenario.layout],
        out=out,
        timeout_s=600,
        overwrite=True,
    )
    if earlier is not None:
        request = replace(
            request,
            reference=None,
            reference_trace=open_trace(earlier / "reference"),
            noise_traces=[
                open_trace(earlier / noise_run_name(seed))
                for seed in request.noise_seeds
            ],
        )
    return run_check(request, backend, on_stage=on_stage, progress=progress)
