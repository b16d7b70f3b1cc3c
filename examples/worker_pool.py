"""Processes of one world size that stay alive and run one ``main(argv)`` after another.

Starting two processes that import torch and Megatron takes seconds, a step takes
milliseconds: workers stay, and where that is safe they are forks of a process that has
imported all of it. Workers meet over a file and gloo's own ports, so pools never clash.

Run as a module, this file is a worker.
"""

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ttrace.examples.worker_nursery import Nursery, nursery_for

STARTUP_TIMEOUT_S = 120
GRACE_S = 10
"""What the other ranks get after one has failed: they may wait for it forever."""

_THIS = "ttrace.examples.worker_pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one rank ended.

    Attributes:
        status: Exit status, or None if the call did not return.
        output: What it printed.
        error: Traceback or other reason where the call did not return.
    """

    status: int | None
    output: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """A process that runs one job after another.

    Attributes:
        pid: Its process id.
        jobs: Its standard input, a job a line.
        end: Kills it and waits for its end.
    """

    pid: int
    jobs: TextIO
    end: Callable[[], None]


class WorkerPool:
    """A process per rank; started at the first run, and anew after a failed one.

    Args:
        world_size: Number of ranks.
        environment: Variables that the processes are started with besides one's own.
    """

    def __init__(
        self, world_size: int, *, environment: Mapping[str, str] | None = None
    ):
        self.world_size = world_size
        self._environment = dict(environment or {})
        self._workers: list[_Worker] = []
        self._replies: queue.Queue[tuple[int, Outcome]] = queue.Queue()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(
        self,
        module: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> list[Outcome]:
        """Calls ``module.main(argv)`` on every rank.

        Args:
            module: Name of the module.
            argv: Its arguments, the same on all ranks.
            environment: Variables to set for the call.
            timeout_s: For all ranks to return, besides starting the workers.

        Returns:
            One outcome per rank.
        """
        if not self._workers:
            self._start(module)
            timeout_s += STARTUP_TIMEOUT_S
        job = json.dumps(
            {"module": module, "argv": list(argv), "environment": environment or {}}
        )
        for worker in self._workers:
            worker.jobs.write(job + "\n")
            worker.jobs.flush()
        outcomes = self._collect(timeout_s)
        if any(outcome.status is None for outcome in outcomes):
            self.close()  # a rank may hang, and Megatron's state be half taken down
        return outcomes

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            with contextlib.suppress(BrokenPipeError):  # of a job that was never read
                worker.jobs.close()
        self._workers.clear()
        self._replies = queue.Queue()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, module: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        rendezvous = str(Path(self._folder.name) / "rendezvous")
        lasting = {**os.environ, **self._environment, "OMP_NUM_THREADS": "1"}
        nursery = nursery_for(module, lasting)
        for rank in range(self.world_size):
            variables = {
                **lasting,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(self.world_size),
            }
            worker, replies = _start_worker(rendezvous, variables, nursery)
            self._workers.append(worker)
            threading.Thread(
                target=_forward_replies,
                args=(rank, replies, self._replies),
                daemon=True,
            ).start()

    def _collect(self, timeout_s: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout_s
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < self.world_size:
            try:
                left_s = max(deadline - time.monotonic(), 0)
                rank, outcome = self._replies.get(timeout=left_s)
            except queue.Empty:
                break
            outcomes[rank] = outcome
            if outcome.status is None:
                deadline = min(deadline, time.monotonic() + GRACE_S)
        late = Outcome(status=None, error="did not return in time")
        return [outcomes.get(rank, late) for rank in range(self.world_size)]


class WorkerPools:
    """One pool per world size, each begun when it is first asked for.

    Args:
        environment: Variables that the processes are started with besides one's own.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None):
        self._environment = environment
        self._pools: dict[int, WorkerPool] = {}

    def of_size(self, world_size: int) -> WorkerPool:
        """The pool of this many ranks."""
        if world_size not in self._pools:
            self._pools[world_size] = WorkerPool(
                world_size, environment=self._environment
            )
        return self._pools[world_size]

    def close(self) -> None:
        """Ends the workers of all pools."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def __enter__(self) -> "WorkerPools":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _start_worker(
    rendezvous: str, variables: Mapping[str, str], nursery: Nursery | None
) -> tuple[_Worker, int]:
    """A worker, and the descriptor to read its replies from."""
    jobs_read, jobs_write = os.pipe()
    replies_read, replies_write = os.pipe()
    if nursery is not None:
        pid = nursery.start(
            (f"{_THIS}:serve", rendezvous),
            variables,
            stdin=jobs_read,
            replies=replies_write,
        )
        end = functools.partial(nursery.end, pid)
    else:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _THIS, rendezvous, str(replies_write)],
            stdin=jobs_read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[replies_write],
            env=variables,
        )
        pid, end = process.pid, functools.partial(_end, process)
    for descriptor in (jobs_read, replies_write):
        os.close(descriptor)
    return _Worker(pid=pid, jobs=open(jobs_write, "w"), end=end), replies_read


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _forward_replies(
    rank: int, read_end: int, replies: "queue.Queue[tuple[int, Outcome]]"
) -> None:
    with open(read_end) as lines:
        for line in lines:
            replies.put((rank, Outcome(**json.loads(line))))
    replies.put((rank, Outcome(status=None, error="the worker died")))


def serve(rendezvous: str, write_end: int) -> None:
    """What a worker does: one job after another, until there is no more.

    Args:
        rendezvous: Path of the file over which the ranks meet.
        write_end: Descriptor to write replies to.
    """
    import torch.distributed as dist

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(rendezvous, world_size)  # pyright: ignore
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    known: set[str] = set()
    with open(write_end, "w") as replies:
        for line in sys.stdin:
            job = json.loads(line)
            reply = _call(**job)
            if job["module"] not in known:
                # Now everything is imported, and none of it will ever be garbage:
                # looking through it costs more than many a run.
                gc.freeze()
                known.add(job["module"])
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


def _call(
    module: str, argv: list[str], environment: dict[str, str]
) -> dict[str, str | int | None]:
    status: int | None = None
    error = ""
    before = dict(os.environ)
    os.environ.update(environment)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = importlib.import_module(module).main(argv)
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException:
            error = traceback.format_exc()
    os.environ.clear()
    os.environ.update(before)
    # A process group keeps its dozens of threads until nothing refers to it, and models
    # refer to theirs in circles: a long-lived worker would drown in threads.
    gc.collect()
    _forget_meshes()
    return {"status": status, "output": printed.getvalue(), "error": error}


def _forget_meshes() -> None:
    """Empties DTensor's caches: they would answer with the mesh of an earlier run.

    Two meshes of the same ranks and names are equal, whatever each was sliced from.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return
    debug = importlib.import_module("torch.distributed.tensor.debug")
    forget = getattr(debug, "_clear_sharding_prop_cache", None)
    if forget is not None:
        forget()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
