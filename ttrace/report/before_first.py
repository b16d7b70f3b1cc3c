"""What lies before the first divergence: the last tensor that agrees, and what between.

Read off the order of the tensors, which is that of the computation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.errors import TensorIdError
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId, parse_tensor_id
from ttrace.report.model import Report

FORWARD = (Kind.INPUT, Kind.OUTPUT)
"""What a module is given and what it returns, in the forward."""

BACKWARD = (Kind.GRAD_OUTPUT, Kind.GRAD_INPUT)
"""The same in the backward."""

_GIVEN = (Kind.INPUT, Kind.GRAD_OUTPUT)
"""What other code than the module's own has made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeFirst:
    """The neighbourhood of a first divergence that passes between modules.

    Attributes:
        kind: Of the first divergence: one of ``FORWARD`` or ``BACKWARD``.
        is_given: Whether its module is only given it, so that other code made it.
        agrees: Id of the last tensor before it, of the same micro-batch, that was
            compared and agrees; None if there is none.
        within: The innermost recorded module that both belong to, and whose code lies
            between them; ``@root`` is the model. Without ``agrees``, the one around.
        not_compared: Modules between the two of which tensors were recorded and not
            compared, in order.
    """

    kind: Kind
    is_given: bool
    agrees: str | None
    within: str
    not_compared: tuple[str, ...]


def before_first(report: Report) -> BeforeFirst | None:
    """Looks for the last tensor that agrees before the first divergence.

    Linear in the number of tensors.

    Returns:
        None where the first divergence is of another kind, was not compared, or is not
        among the tensors.
    """
    first = report.first_divergence
    place = next(
        (i for i, t in enumerate(report.tensors) if first and t.id == first.id), None
    )
    if place is None or report.tensors[place].status != "failed":
        return None
    own = _parsed(report.tensors[place].id)
    if own is None or own.kind not in (*FORWARD, *BACKWARD):
        return None
    agrees, skipped = _last_that_agrees(report, place, own)
    is_given = own.kind in _GIVEN
    inner = _parts(own.module)[: -1 if is_given else None]
    if agrees is not None:
        inner = _common(inner, _parts(agrees.module))
    recorded = {
        parsed.module
        for tensor in report.tensors[:place]
        if tensor.kind in FORWARD and (parsed := _parsed(tensor.id))
    } | {own.module}
    while inner and ".".join(inner) not in recorded:
        inner = inner[:-1]  # such as a list of layers, which nobody calls
    around = {own.module, *([] if agrees is None else [agrees.module])}
    return BeforeFirst(
        kind=own.kind,
        is_given=is_given,
        agrees=None if agrees is None else str(agrees),
        within=".".join(inner) or ROOT_MODULE,
        not_compared=tuple(m for m in reversed(skipped) if m not in around),
    )


def _last_that_agrees(
    report: Report, place: int, own: TensorId
) -> tuple[TensorId | None, Sequence[str]]:
    """It, and the modules of what was not compared on the way, the nearest first."""
    wanted = FORWARD if own.kind in FORWARD else (*BACKWARD, Kind.LOSS)
    skipped: dict[str, None] = {}
    for tensor in reversed(report.tensors[:place]):
        if tensor.kind not in wanted:
            continue
        parsed = _parsed(tensor.id)
        if parsed is None or parsed.microbatch != own.microbatch:
            continue
        if parsed.step != own.step:
            break
        if tensor.status == "passed":
            return parsed, tuple(skipped)
        if tensor.status in ("skipped", "unmatched"):
            skipped[parsed.module] = None
    return None, tuple(skipped)


def _parsed(text: str) -> TensorId | None:
    try:
        return parse_tensor_id(text)
    except TensorIdError:
        return None


def _parts(module: str) -> Sequence[str]:
    return () if module == ROOT_MODULE else tuple(module.split("."))


def _common(left: Sequence[str], right: Sequence[str]) -> Sequence[str]:
    number = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        number += 1
    return left[:number]
