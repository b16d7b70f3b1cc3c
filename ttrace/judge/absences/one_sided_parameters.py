"""Parameters that only one run has, such as adapters of modules that both have."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_COMPARED = (Status.PASSED, Status.FAILED)

MAX_NAMES = 4


def one_sided_parameters(
    verdicts: Sequence[TensorVerdict],
) -> tuple[TensorVerdict, ...]:
    """Verdicts on initial parameters that only one run recorded.

    None where no initial parameter was compared: a run may not record them, or name all
    of them otherwise.

    Args:
        verdicts: On all tensors.
    """
    of_parameters = [v for v in verdicts if v.id.kind is Kind.PARAM]
    if not any(v.status in _COMPARED for v in of_parameters):
        return ()
    return tuple(
        v
        for v in of_parameters
        if v.status is Status.UNMATCHED and v.present is not None and not v.beyond
    )


def of_side(parameters: Sequence[TensorVerdict], side: Side) -> list[TensorVerdict]:
    """Those that a run has."""
    return [verdict for verdict in parameters if verdict.present is side]


def counted_by_side(parameters: Sequence[TensorVerdict]) -> str:
    """``4 parameters are in the reference only (a/weight, b/weight)``, or empty."""
    parts = []
    for side in Side:
        there = of_side(parameters, side)
        if there:
            are = "parameters are" if len(there) > 1 else "parameter is"
            names = few([f"{v.id.module}/{v.id.slot}" for v in there])
            parts.append(f"{len(there)} {are} in the {side} only ({names})")
    return " and ".join(parts)


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
