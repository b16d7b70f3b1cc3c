"""The report of a job that ended before there was anything to compare."""

from ttrace.errors import CommandError, TraceError, TtraceError
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.outcome import ErrorKind, Outcome
from ttrace.report.build import run_setup
from ttrace.report.model import Counts, ErrorDetails, Report, RunSetup, Setup


def error_kind_of(error: TtraceError) -> ErrorKind:
    """What kind of error keeps a job from its verdict."""
    if isinstance(error, CommandError):
        return ErrorKind.COMMAND
    if isinstance(error, TraceError):
        return ErrorKind.TRACE
    return ErrorKind.USAGE


def report_of_error(
    error: TtraceError,
    *,
    backend: str,
    reference: TraceSource | None = None,
    candidate: TraceSource | None = None,
) -> Report:
    """What is known when an error ends a job.

    Args:
        error: What ended it.
        backend: Name of what would have computed the figures.
        reference: The trusted run, where it could be read.
        candidate: The run under test, likewise.
    """
    return Report(
        verdict=Outcome.ERROR,
        summary=f"Nothing was compared: {error.what}.",
        error_kind=error_kind_of(error),
        error=ErrorDetails(
            what=error.what,
            remedy=error.remedy,
            where=_text(error.where),
            expected=_text(error.expected),
            got=_text(error.got),
        ),
        backend=backend,
        counts=Counts(
            total=0, passed=0, failed=0, unmatched=0, skipped=0, skipped_reasons={}
        ),
        first_divergence=None,
        diagnosis=(),
        tensors=(),
        setup=Setup(
            reference=_setup_of(reference),
            candidate=_setup_of(candidate),
            differences={},
            binding=(),
            tensors=(),
        ),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _setup_of(trace: TraceSource | None) -> RunSetup:
    if trace is not None:
        return run_setup(trace)
    return RunSetup(
        path="",
        framework="",
        world_size=0,
        versions={},
        meshes={},
        settings={},
        capture={},
        num_recorded_ranks=0,
    )
