"""Rows that say what a training step costs, and their table."""

from dataclasses import dataclass

import rich.table


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table.

    Attributes:
        name: What was recorded, and where to.
        step_s: Median seconds of a step.
        num_tensors: Records of one step.
        num_bytes: Bytes of the records of one step.
    """

    name: str
    step_s: float
    num_tensors: int = 0
    num_bytes: int = 0


def table(results: list[Result], title: str | None = None) -> rich.table.Table:
    """The rows with their ratio to the first one."""
    columns = ("recorded", "step", "ratio", "tensors", "MB")
    shown = rich.table.Table(*columns, title=title)
    for result in results:
        shown.add_row(
            result.name,
            f"{result.step_s * 1e3:.0f} ms",
            f"{result.step_s / results[0].step_s:.2f}",
            str(result.num_tensors or ""),
            f"{result.num_bytes / 1e6:.0f}" if result.num_bytes else "",
        )
    return shown
