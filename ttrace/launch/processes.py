"""Ends every process that a command started, wherever it went."""

import contextlib
import os
import signal
import time
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.05


def end_processes(group: int, mark: str, *, grace_s: float) -> None:
    """Asks the processes of a command to end, and kills those that do not.

    They are those of its process group and, where the system tells, those that
    inherited its mark: launchers (torchrun) put their workers into sessions of their
    own, and workers outlive a launcher that is killed.

    Args:
        group: The process group.
        mark: A variable that only this command has in its environment.
        grace_s: Seconds from asking to killing, and again for the killing.
    """
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            deadline = time.monotonic() + grace_s
            asked: set[int] = set()
            while living := living_processes(group, mark):
                if time.monotonic() > deadline:
                    break
                for target in living - asked:  # also those that were started meanwhile
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(target, sign)
                asked |= living
                time.sleep(_POLL_S)
            else:
                return
        except KeyboardInterrupt:  # a second Ctrl-C: the grace ends here
            continue


def living_processes(group: int, mark: str) -> set[int]:
    """Process ids, as ``os.kill`` takes them; the group (negative) where /proc lacks.

    Zombies do not count: in a container nobody may be there to reap them.
    """
    if not (_PROC / "self" / "environ").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return {-group}
        return set()
    found = set()
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            # The name stands in parentheses and may hold blanks and parentheses.
            _, _, fields = (folder / "stat").read_text().rpartition(")")
            state, _, process_group = fields.split()[:3]
            if state not in "ZX" and (
                int(process_group) == group
                or mark.encode() in (folder / "environ").read_bytes()
            ):
                found.add(int(folder.name))
    return found
