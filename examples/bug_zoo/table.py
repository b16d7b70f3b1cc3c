"""The zoo as tables: what is in it, and what running it showed."""

from collections.abc import Sequence

from rich.table import Table

from ttrace.examples.bug_zoo.bug import Bug
from ttrace.examples.bug_zoo.registry import Exhibit
from ttrace.examples.bug_zoo.result import BugResult


def list_table(exhibits: Sequence[Exhibit]) -> Table:
    """Name, title, source and layout of each bug."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("bug", no_wrap=True)
    for column in ("what is wrong", "source", "layout"):
        table.add_column(column, overflow="fold")
    for exhibit in exhibits:
        bug = exhibit.bug
        table.add_row(bug.name, bug.title, bug.source, layout_text(bug))
    return table


def layout_text(bug: Bug) -> str:
    """The layout in short, e.g. ``2 x fp32: tensor-model-parallel-size 2``."""
    options = " ".join(bug.layout).replace("--", "").replace("-parallel-size", "")
    return f"{bug.world_size} x {bug.precision}" + (f": {options}" if options else "")


def result_row(result: BugResult) -> tuple[str, ...]:
    """Cells of one row, in the order of ``RESULT_COLUMNS``."""
    return (
        result.name,
        result.clean,
        "yes" if result.found else "no",
        result.kind or "-",
        result.first_divergence or "-",
        "yes" if result.module_right else "no",
        f"{result.seconds:.1f}",
    )


RESULT_COLUMNS = (
    "bug",
    "clean",
    "found",
    "kind",
    "first divergence",
    "right place",
    "seconds",
)


def result_table(results: Sequence[BugResult]) -> Table:
    """One row per bug."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in RESULT_COLUMNS:
        table.add_column(column, overflow="fold")
    for result in results:
        table.add_row(*result_row(result))
    return table


def summary(results: Sequence[BugResult]) -> str:
    """The figures in one line."""
    total = len(results)
    found = sum(result.found for result in results)
    right = sum(result.found and result.module_right for result in results)
    clean = sum(result.clean == "pass" for result in results)
    return (
        f"{found} of {total} bugs found, {right} first seen in the right place; "
        f"{clean} of {total} clean twins pass"
    )


def codes_summary(results: Sequence[BugResult]) -> str:
    """How often the first diagnosis is the one that was stated before; empty if none
    was."""
    stated = [result for result in results if result.code_right is not None]
    if not stated:
        return ""
    right = sum(bool(result.code_right) for result in stated)
    return f"the first diagnosis is the stated one for {right} of {len(stated)} bugs"
