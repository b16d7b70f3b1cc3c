"""What the formats for people say in the same words, as plain text."""

from collections.abc import Iterable

from ttrace.judge.verdicts.verdict import Cause
from ttrace.report.model import MapSetup, Report, TensorReport
from ttrace.report.skip_reasons import grouped_reasons

MAX_ROWS = 12
"""Rows of a table of tensors, and reasons that are named; JSON and CSV have all."""

_USUAL_BACKENDS = ("cpu", "jax")
"""What ``--backend auto`` takes."""


def counts_line(report: Report) -> str:
    """``12 passed, 1 failed, ... of 14 tensors; largest margin 4 (...)``."""
    counts = report.counts
    # What is used where it can be is told by the other formats alone.
    backend = "" if report.backend in _USUAL_BACKENDS else f"; {report.backend} backend"
    return (
        f"{report.passed_text}, {counts.failed} failed, {counts.unmatched} "
        f"unmatched, {counts.skipped} skipped of {counts.total} tensors; largest "
        f"margin {figure(report.largest_margin)} (error / tolerance){backend}"
    )


def place_lines(report: Report, *, max_rows: int = MAX_ROWS) -> Iterable[str]:
    """Where failures begin, and what follows from each.

    Of the first divergence alone, only what follows: the summary has all else.

    Args:
        report: The report.
        max_rows: Places that are named.
    """
    culprits = report.culprits
    if only_the_first(report):
        if sum(culprits[0].explains.values()) > 1:
            yield f"the first divergence explains {culprits[0].share}"
        return
    if len(culprits) > 1:
        yield f"{len(culprits)} independent places:"
    for number, culprit in enumerate(culprits[:max_rows], 1):
        mark = f"{number}. " if len(culprits) > 1 else "place: "
        yield f"{mark}{culprit.sentence}"
    if len(culprits) > max_rows:
        yield f"and {len(culprits) - max_rows} more"


def only_the_first(report: Report) -> bool:
    """Whether all failures that are explained begin at the first divergence."""
    culprits, first = report.culprits, report.first_divergence
    return len(culprits) == 1 and first is not None and culprits[0].id == first.id


def only_line(report: Report) -> str:
    """The filters of the comparison, as options; empty for none."""
    filters = " ".join(f"--{name} {text}" for name, text in report.only.items())
    return filters and f"compared only: {filters}"


def skipped_lines(report: Report, *, max_rows: int = MAX_ROWS) -> Iterable[str]:
    """``63: no layout rule, e.g. ID``, the most frequent reason first."""
    examples: dict[str, str] = {}
    for tensor in report.tensors:
        if tensor.status == "skipped":
            examples.setdefault(tensor.reason, tensor.id)
    reasons = grouped_reasons(report.counts.skipped_reasons, examples)
    for reason, count in reasons[:max_rows]:
        yield f"{count}: {reason}"
    if len(reasons) > max_rows:
        rest = sum(count for _, count in reasons[max_rows:])
        yield f"{rest}: for other reasons"


def map_line(map_setup: MapSetup) -> str:
    """By which map the tensors were matched, and what it leaves out."""
    plural = "" if map_setup.num_rules == 1 else "s"
    line = f"matched by {map_setup.path}, {map_setup.num_rules} rule{plural}"
    if map_setup.num_unverified:
        line += f", {map_setup.num_unverified} of them unverified"
    if map_setup.num_left_out_reference or map_setup.num_left_out_candidate:
        line += (
            f"; it leaves out {map_setup.num_left_out_reference} inputs and outputs of "
            f"the reference, {map_setup.num_left_out_candidate} of the candidate"
        )
    return line


def setup_line(report: Report) -> str:
    """How many of what both runs were given differ, and the first; empty for none."""
    differing = report.setup.tensors
    if not differing:
        return ""
    return (
        f"set-up: {len(differing)} initial parameters or inputs differ, first "
        f"{differing[0]}"
    )


def settings_line(report: Report) -> str:
    """The settings that differ, of both runs; empty for none."""
    pairs = ", ".join(
        f"{name} {reference} -> {candidate}"
        for name, (reference, candidate) in report.setup.differences.items()
    )
    return pairs and f"settings that differ: {pairs}"


def failed_first_divergence_first(report: Report) -> list[TensorReport]:
    """The failed tensors in order of the dataflow, but for the first divergence."""
    first = report.first_divergence
    failed = report.failed()
    head = [t for t in failed if first is not None and t.id == first.id]
    return [*head, *(tensor for tensor in failed if tensor not in head)]


def title_of(title: str, num_tensors: int, max_rows: int = MAX_ROWS) -> str:
    """The title of a table of tensors, with how many it shows of how many."""
    if num_tensors <= max_rows:
        return title
    return f"{title} ({max_rows} of {num_tensors})"


def figures(tensor: TensorReport) -> tuple[float | None, float | None]:
    """Error and tolerance, of the part by which a tensor failed or of all of it."""
    part = tensor.failed_part
    if part is None:
        return tensor.rel_err, tensor.tolerance
    return part.rel_err, part.tolerance


def tells_place_only(tensor: TensorReport) -> bool:
    """Whether its figures say why it failed, and only where is left to tell."""
    is_error = tensor.cause == Cause.ERROR and tensor.max_abs_err_at is not None
    return is_error and tensor.failed_part is None


def reason_beside_figures(tensor: TensorReport) -> str:
    """Why a tensor failed, without the figures that stand beside it."""
    if tensor.failed_part is not None:
        return f"its part {tensor.failed_part.name}"
    if not tells_place_only(tensor):
        return tensor.reason
    where = f" at {list(tensor.max_abs_err_at)}" if tensor.max_abs_err_at else ""
    return f"largest difference {figure(tensor.max_abs_err)}{where}"


def figure(value: float | None) -> str:
    """Three digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.3g}"
