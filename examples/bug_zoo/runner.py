"""Runs a bug: its reference, its clean twin, and the bug itself."""

import importlib.util
import time
from pathlib import Path

from ttrace.errors import TtraceError
from ttrace.examples.bug_zoo.bug import Bug
from ttrace.examples.bug_zoo.registry import Exhibit
from ttrace.examples.bug_zoo.result import BugResult, failed_bug, judge_bug
from ttrace.examples.jax_port.config import map_path
from ttrace.examples.main_job import Launch, MainJob
from ttrace.mapping.map_file import read_map


def run_bug(exhibit: Exhibit, job: MainJob, *, localize: bool = False) -> BugResult:
    """Checks the clean twin, then the bug, against the same reference.

    Where a run fails, the row says so.

    Args:
        exhibit: The bug.
        job: Records and compares.
        localize: Run the bug once more on the reference's values.
    """
    bug = exhibit.bug
    started = time.monotonic()
    clean = None
    try:
        reference = reference_launch(bug)
        map_file = read_map(map_path(bug.map_name)) if bug.map_name else None
        clean = job.check(reference, clean_launch(bug), map_file=map_file)
        buggy = job.check(
            reference, buggy_launch(exhibit), map_file=map_file, localize=localize
        )
    except TtraceError as error:
        return failed_bug(bug, clean, error, seconds=time.monotonic() - started)
    return judge_bug(bug, clean, buggy, seconds=time.monotonic() - started)


def reference_launch(bug: Bug) -> Launch:
    """The trusted run: one process."""
    return Launch(
        script=bug.reference_script or bug.script,
        options=(*bug.common_options, *bug.reference_layout),
        patches=_common_patches(bug),
    )


def clean_launch(bug: Bug) -> Launch:
    """The correct run that is laid out like the buggy one."""
    return Launch(
        script=bug.script,
        options=(*bug.common_options, *bug.twin_layout),
        world_size=bug.world_size,
        patches=_common_patches(bug),
    )


def buggy_launch(exhibit: Exhibit) -> Launch:
    """The run with the bug in it."""
    bug = exhibit.bug
    own = (exhibit.path,) if exhibit.is_patch else ()
    return Launch(
        script=bug.script,
        options=(*bug.common_options, *bug.layout),
        world_size=bug.world_size,
        patches=(*_common_patches(bug), *own),
    )


def _common_patches(bug: Bug) -> tuple[Path, ...]:
    if bug.common_patch is None:
        return ()
    # Found, but not imported: it needs a framework, and is for the workers.
    spec = importlib.util.find_spec(bug.common_patch)
    assert spec is not None and spec.origin is not None, bug.common_patch
    return (Path(spec.origin),)
