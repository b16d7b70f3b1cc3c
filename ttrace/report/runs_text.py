"""What the two runs were, in a line: what a verdict on them covers."""

from collections.abc import Iterator

from ttrace.ir.sharded_axes import ALL_DEVICES
from ttrace.report.set_up import RunSetup, Setup


def runs_lines(setup: Setup) -> Iterator[str]:
    """``runs: the reference on 1 rank; the candidate on 2 ranks (dp 2), ...``.

    Nothing of two runs on one rank each, and of what was not recorded.
    """
    runs = (setup.reference, setup.candidate)
    if (
        not all(run.world_size for run in runs)
        or max(r.num_working_ranks for r in runs) < 2
    ):
        return
    sides = []
    for name, run in zip(("reference", "candidate"), runs, strict=True):
        number = run.num_working_ranks
        plural = "" if number == 1 else "s"
        sides.append(f"the {name} on {number} rank{plural}{_axes(run)}")
    yield f"runs: {'; '.join(sides)}"


def _axes(run: RunSetup) -> str:
    sizes = {
        axis: size
        for name, mesh in run.meshes.items()
        if name != ALL_DEVICES
        for axis, size in mesh.items()
    }
    axes = ", ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)
    number = run.num_working_ranks
    if number == 1 or not run.num_parameters:
        return f" ({axes})" if axes and number > 1 else ""
    total = run.num_parameters
    parts = [
        f"{number}{f' of its {total} parameters sharded' if place == 0 else ''} "
        f"over {axis}"
        for place, (axis, number) in enumerate(run.sharded_parameters.items())
    ]
    parameters = ", ".join(parts) or f"none of its {total} parameters sharded"
    return f" ({axes}), {parameters}" if axes else f", {parameters}"
