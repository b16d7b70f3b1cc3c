"""What ``check`` is going to do, and what it will keep; nothing is run or written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttrace.check_job import with_tolerances_beside
from ttrace.check_request import CheckRequest, noise_run_name, require_sound
from ttrace.errors import TtraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.launch.trace_folders import find_traces
from ttrace.pipeline import open_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One thing that ``check`` does.

    Attributes:
        what: In words.
        command: The command that is run; None where none is.
        folder: Where what it records is kept; None where nothing is recorded.
        num_bytes: What that will take, as far as an earlier trace tells; else None.
        basis: The folder of that trace, or None.
        needs_overwrite: The folder holds something already.
    """

    what: str
    command: Sequence[str] | None = None
    folder: Path | None = None
    num_bytes: int | None = None
    basis: Path | None = None
    needs_overwrite: bool = False


def plan_check(
    request: CheckRequest, *, on_stage: Callable[[str], None] = lambda _: None
) -> list[Stage]:
    """The stages of a check, in order.

    How large a trace becomes is told by one that lies where it will be, or by the
    reference for its noise runs, if that recorded the same kinds, modules and steps.

    Args:
        request: What is to be run.
        on_stage: Told what is taken in place of runs, in words.

    Raises:
        UsageError: The request contradicts itself.
    """
    require_sound(request)
    request = with_tolerances_beside(request, on_stage)
    stages = []
    if request.reference_trace is None:
        assert request.reference is not None
        reference = _recording(request, "the reference", "reference", request.reference)
        of_reference = (reference.num_bytes, reference.basis)
        stages.append(reference)
    else:
        of_reference = _size_of(Path(request.reference_trace.name), request.capture)
        stages.append(Stage(what=f"take the reference {request.reference_trace.name}"))
    stages.append(_recording(request, "the candidate", "candidate", request.candidate))
    for seed in request.noise_seeds:
        assert request.reference is not None
        what = f"the reference with noise, seed {seed}"
        name = noise_run_name(seed)
        stages.append(_recording(request, what, name, request.reference, of_reference))
    stages += [
        Stage(what=f"take the noise run {trace.name}") for trace in request.noise_traces
    ]
    stages += _comparisons(request)
    return stages


def _comparisons(request: CheckRequest) -> Iterator[Stage]:
    count = len(request.noise_seeds) + len(request.noise_traces)
    if count:
        plural = "" if count == 1 else "s"
        yield Stage(what=f"measure the noise of {count} run{plural}")
    yield Stage(what="compare the candidate with the reference")


def _recording(
    request: CheckRequest,
    what: str,
    name: str,
    command: Sequence[str],
    otherwise: tuple[int | None, Path | None] = (None, None),
) -> Stage:
    folder = request.out / name
    num_bytes, basis = _size_of(folder, request.capture)
    if num_bytes is None:
        num_bytes, basis = otherwise
    return Stage(
        what=f"record {what}",
        command=command,
        folder=folder,
        num_bytes=num_bytes,
        basis=basis,
        needs_overwrite=not request.overwrite
        and folder.is_dir()
        and any(folder.iterdir()),
    )


def _size_of(folder: Path, capture: CaptureFilter) -> tuple[int | None, Path | None]:
    """The size of a trace that was recorded with the same filters, and its folder."""
    try:
        info = open_trace(folder).info
        same = all(rank.capture == capture.to_json() for rank in info.ranks)
        (stored,) = find_traces(folder)
    except (TtraceError, ValueError):  # there is none, or not a whole one
        return None, None
    return (stored.num_bytes, folder) if same else (None, None)


def total_bytes(stages: Sequence[Stage]) -> tuple[int, int]:
    """What all traces take that can be told, and of how many it cannot."""
    sizes = [stage.num_bytes for stage in stages if stage.folder is not None]
    return sum(size or 0 for size in sizes), sizes.count(None)
