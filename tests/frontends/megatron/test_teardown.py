"""A worker that runs one model after another keeps none of them."""

import os
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

from ttrace.examples.worker_pool import WorkerPool  # noqa: E402
from ttrace.recording.request import RecordRequest  # noqa: E402

_TASKS = Path("/proc/self/task")

_TINY = ("--num-layers", "1", "--seq-length", "8", "--micro-batch-size", "1")
_MOE = ("--num-experts", "4", "--disable-bias-linear")
_LLAMA = ("--position-embedding-type", "rope", "--swiglu")


@pytest.mark.skipif(not _TASKS.exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("model", [_MOE, _LLAMA], ids=["experts", "rotary"])
@pytest.mark.parametrize("is_recorded", [False, True], ids=["plain", "recorded"])
def test_threads_of_process_groups_end_with_their_run(
    model: tuple[str, ...], is_recorded: bool, tmp_path: Path
):
    threads = []
    with WorkerPool(1) as pool:
        for run in range(3):
            request = RecordRequest(out=tmp_path / str(run))
            (outcome,) = pool.run(
                "ttrace.examples.megatron_gpt.train",
                [*_TINY, *model],
                environment=request.to_environment() if is_recorded else None,
            )
            assert outcome.status == 0, outcome.error or outcome.output
            (worker,) = pool._workers
            threads.append(len(os.listdir(f"/proc/{worker.pid}/task")))
    # The first run may start threads that stay: those of torch itself.
    assert threads[1] == threads[2]
