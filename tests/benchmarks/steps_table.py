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
        cpu_s: Mean CPU seconds of a step, of all threads; 0 where not measured.
        disk_bytes: Bytes that one step left on the disk.
        raw_write_s: Seconds to write and sync as many bytes without anything else.
        raw_write_cpu_s: CPU seconds of that.
    """

    name: str
    step_s: float
    num_tensors: int = 0
    num_bytes: int = 0
    cpu_s: float = 0.0
    disk_bytes: int = 0
    raw_write_s: float = 0.0
    raw_write_cpu_s: float = 0.0


def table(results: list[Result], title: str | None = None) -> rich.table.Table:
    """The rows with their ratio to the first one, the bare step.

    Those on disk also with their ratio to the bare step and the bare writing of the
    bytes together, by the clock and in CPU seconds.
    """
    columns = ("recorded", "step", "ratio", "tensors", "MB", "CPU", "of step + write")
    shown = rich.table.Table(*columns, title=title)
    bare = results[0]
    for result in results:
        of_both = ""
        if result.disk_bytes:
            of_both = (
                f"{result.step_s / (bare.step_s + result.raw_write_s):.2f}, CPU "
                f"{result.cpu_s / (bare.cpu_s + result.raw_write_cpu_s):.2f}"
            )
        num_bytes = result.num_bytes or result.disk_bytes
        shown.add_row(
            result.name,
            f"{result.step_s * 1e3:.0f} ms",
            f"{result.step_s / results[0].step_s:.2f}",
            str(result.num_tensors or ""),
            f"{num_bytes / 1e6:.0f}" if num_bytes else "",
            f"{result.cpu_s * 1e3:.0f} ms" if result.cpu_s else "",
            of_both,
        )
    return shown
