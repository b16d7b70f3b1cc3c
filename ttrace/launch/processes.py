"""Ends every process that a command started, wherever it went."""

import contextlib
import os
import time
from collections.abc import Iterator

import psutil

_POLL_S = 0.05


def end_processes(group: int, mark: str, *, grace_s: float) -> None:
    """Asks the processes of a command to end, and kills those that do not.

    They are those of its process group, their descendants, and those that inherited
    its mark: launchers (torchrun) put their workers into sessions of their own, and
    workers outlive a launcher that is killed.

    Args:
        group: The process group, which is also the process id of its leader.
        mark: A variable that only this command has in its environment.
        grace_s: Seconds from asking to killing, and again for the killing.
    """
    asked: set[psutil.Process] = set()
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        try:
            deadline = None
            told: set[psutil.Process] = set()
            # A process that was asked once stays ours, also when it changes its group
            # or its environment meanwhile.
            while living := living_processes(group, mark) | _still_living(asked):
                for process in living - told:  # also those that were started meanwhile
                    with contextlib.suppress(psutil.Error):
                        ask(process)
                told |= living
                asked |= living
                # To find them may take longer than the grace, which begins here.
                deadline = deadline or time.monotonic() + grace_s
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_S)
            else:
                return
        except KeyboardInterrupt:  # a second Ctrl-C: the grace ends here
            continue


def living_processes(group: int, mark: str) -> set[psutil.Process]:
    """The processes of a command that have not ended.

    Zombies do not count: in a container nobody may be there to reap them.

    Args:
        group: The process group of the command.
        mark: A variable that only this command has in its environment.
    """
    found = {process for process in _others() if _belongs(process, group, mark)}
    children = {
        child for process in found for child in _children(process) if _is_living(child)
    }
    return found | children


def _others() -> Iterator[psutil.Process]:
    own = os.getpid()
    return (process for process in psutil.process_iter() if process.pid != own)


def _belongs(process: psutil.Process, group: int, mark: str) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == group:
            return _is_living(process)
    with contextlib.suppress(psutil.Error, OSError):  # another user's, or it has ended
        return mark in process.environ() and _is_living(process)
    return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _is_living(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() not in (
            psutil.STATUS_ZOMBIE,
            psutil.STATUS_DEAD,
        )
    return False


def _still_living(processes: set[psutil.Process]) -> set[psutil.Process]:
    return {process for process in processes if _is_living(process)}
