"""A process that has imported what a module's runs need, and forks workers from there.

Importing torch and Megatron takes seconds for every process, a fork takes milliseconds.
A worker begins as a process that has imported the module, and shares nothing else with
others: what a run changes stays in its worker. It has the limits, the folder and the
variables of the process that asks for it.

Forks of one process share its seed of ``hash``; a set of texts has the same order in
all of them, as it has not under torchrun.

Run as a module, this file is a nursery.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_NURSERIES = 3
"""How many are kept; each holds some 300 MB once it has imported Megatron."""

_THIS = "ttrace.examples.worker_nursery"

_LENGTH = struct.Struct("!Q")

_OF_ONE_RUN = ("TTRACE_", "PYTEST_", "RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Beginnings of variables that nothing reads while it is imported."""

_LIMITS = [getattr(resource, x) for x in dir(resource) if x.startswith("RLIMIT_")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seed:
    """What the state of a process after its imports depends on."""

    module: str
    environment: tuple[tuple[str, str], ...]


class Nursery:
    """The process that forks; use ``nursery_for``.

    Args:
        module: Imported first. Where it has a function ``prepare()``, that is called:
            it imports what else every run needs.
        environment: All variables of the process.

    Attributes:
        is_usable: Whether its process may fork.
    """

    def __init__(self, module: str, environment: Mapping[str, str]):
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _THIS, str(theirs.fileno()), module],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=dict(environment),
            )
        self._num_workers = 0
        try:
            self.is_usable = _receive(self._socket)[0]["is_usable"]
        except EOFError:  # the module cannot be imported
            self.is_usable = False
        if not self.is_usable:
            self.close()

    @property
    def is_alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    @property
    def has_workers(self) -> bool:
        """Whether workers of it were not ended yet."""
        return self._num_workers > 0

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: int,
        replies: int,
    ) -> int:
        """Forks a worker.

        Args:
            arguments: The first is ``module:function``, what the worker calls; the
                others are for the call, and the descriptor of ``replies`` in the worker
                follows them.
            environment: All variables of the worker.
            stdin: Descriptor that the worker reads as its standard input.
            replies: Descriptor that it writes to.

        Returns:
            Its process id.
        """
        job = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": os.getcwd(),
            "limits": [resource.getrlimit(limit) for limit in _LIMITS],
        }
        _send(self._socket, job, [stdin, replies])
        self._num_workers += 1
        return _receive(self._socket)[0]["pid"]

    def end(self, pid: int) -> None:
        """Kills a worker and waits for its end."""
        self._num_workers -= 1
        with contextlib.suppress(OSError, EOFError):  # it died, and its workers with it
            _send(self._socket, {"end": pid})
            _receive(self._socket)

    def close(self) -> None:
        """Ends it and all its workers."""
        self._socket.close()
        self._process.wait()


_nurseries: dict[_Seed, Nursery] = {}
"""Those of this process; the one used last is the last one."""


def nursery_for(module: str, environment: Mapping[str, str]) -> Nursery | None:
    """The nursery whose workers have imported a module, started if there is none.

    Args:
        module: Name of the module that the workers are going to run.
        environment: All variables of a worker.

    Returns:
        None where forking is not safe: the module cannot be imported, importing it
        starts threads, or there is a GPU, which a fork could not use.
    """
    lasting = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_OF_ONE_RUN)
    }
    seed = _Seed(module=module, environment=tuple(sorted(lasting.items())))
    nursery = _nurseries.pop(seed, None)
    if nursery is None or (nursery.is_usable and not nursery.is_alive):
        _close_unused()
        nursery = Nursery(module, lasting)
    _nurseries[seed] = nursery
    return nursery if nursery.is_usable else None


def _close_unused() -> None:
    kept = [seed for seed, nursery in _nurseries.items() if nursery.is_alive]
    for seed in kept[: max(len(kept) + 1 - MAX_NURSERIES, 0)]:
        if not _nurseries[seed].has_workers:
            _nurseries.pop(seed).close()


@atexit.register
def _close_all() -> None:
    while _nurseries:
        _nurseries.popitem()[1].close()


def _send(to: socket.socket, value: object, descriptors: Sequence[int] = ()) -> None:
    data = json.dumps(value).encode()
    socket.send_fds(to, [_LENGTH.pack(len(data))], descriptors)
    to.sendall(data)


def _receive(of: socket.socket) -> tuple[Any, list[int]]:
    head, descriptors, _, _ = socket.recv_fds(of, _LENGTH.size, 2)
    data = bytearray()
    size = _LENGTH.unpack(head)[0] if head else 1
    while len(data) < size:
        part = of.recv(size - len(data)) if head else b""
        if not part:
            raise EOFError("the other side has ended")
        data += part
    return json.loads(data), descriptors


def _prepare(module: str) -> bool:
    """Imports; returns whether the process may fork now."""
    imported = importlib.import_module(module)
    if hasattr(imported, "prepare"):
        imported.prepare()
    import torch

    # Whatever else runs in a process is missing in its forks, which may wait for it.
    tasks = Path("/proc/self/task")
    has_threads = not tasks.is_dir() or len(list(tasks.iterdir())) > 1
    gc.collect()
    gc.freeze()  # a collection would write to, and so copy, all that forks share
    return not has_threads and not torch.cuda.is_available()


def _serve(control: socket.socket, module: str) -> None:
    before = dict(os.environ)
    _send(control, {"is_usable": _prepare(module)})
    set_by_imports = {x: os.environ[x] for x in os.environ.keys() - before.keys()}
    workers: set[int] = set()
    try:
        while True:
            job, descriptors = _receive(control)
            if "end" in job:
                _end(job["end"])
                workers.discard(job["end"])
                _send(control, {})
                continue
            pid = os.fork()
            if pid == 0:
                control.close()
                _work(job, set_by_imports, *descriptors)
            workers.add(pid)
            for descriptor in descriptors:
                os.close(descriptor)
            _send(control, {"pid": pid})
    except (EOFError, OSError):  # who asked for workers has ended
        pass
    finally:
        for pid in workers:
            _end(pid)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # it is this process's child until it is waited for
    os.waitpid(pid, 0)


def _work(
    job: dict[str, Any], set_by_imports: dict[str, str], stdin: int, replies: int
) -> NoReturn:
    """What a fork does: becomes a process as if started alone, works, ends."""
    status = 1
    try:
        os.dup2(stdin, 0)
        os.close(stdin)
        sys.stdin = open(0, closefd=False)
        os.environ.clear()
        os.environ.update(set_by_imports | job["environment"])
        os.chdir(job["folder"])
        for limit, values in zip(_LIMITS, job["limits"], strict=True):
            resource.setrlimit(limit, values)
        name, *arguments = job["arguments"]
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)(*arguments, replies)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
