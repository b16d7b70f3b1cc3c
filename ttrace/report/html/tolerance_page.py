"""The page of a tolerance file: how far rounding noise carried, kind by kind."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.report.html.page import render_page
from ttrace.report.html.words import KIND_WORDS

MAX_ROWS = 1000
"""Tensors that are listed, those with most noise for their size first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindNoise:
    """The noise of one kind.

    Attributes:
        kind: Its name.
        words: What it is.
        num_tensors: Measured.
        num_silent: Those that no noise run changed.
        num_dominated: Those whose noise could hide an error of their own size.
        median: Of the noise over the value.
        largest: Likewise.
    """

    kind: str
    words: str
    num_tensors: int
    num_silent: int
    num_dominated: int
    median: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNoise:
    """The noise of one tensor.

    Attributes:
        id: Its text form.
        norm: Frobenius norm of the reference.
        draws: Norm of the difference that each noise run made.
        share: The largest of them over the norm.
        is_dominated: Whether that could hide an error of the tensor's own size.
    """

    id: str
    norm: float
    draws: tuple[float, ...]
    share: float
    is_dominated: bool


def render_tolerance(table: ToleranceTable, *, name: str) -> str:
    """The text of the page.

    Args:
        table: The measured noise.
        name: Of the file that holds it.
    """
    shares = {tensor_id: noise.share for tensor_id, noise in table.noise.items()}
    worst = sorted(shares, key=lambda tensor_id: -shares[tensor_id])
    dominated = table.policy.dominated_share
    return render_page(
        "tolerance.html",
        styles=("page.css", "explore.css"),
        name=name,
        table=table,
        numbers=asdict(table.policy),
        num_draws=max((len(noise.draws) for noise in table.noise.values()), default=0),
        num_dominated=sum(share > dominated for share in shares.values()),
        kinds=by_kind(table),
        rows=[
            _row(tensor_id, table.noise[tensor_id], dominated)
            for tensor_id in worst[:MAX_ROWS]
        ],
    )


def by_kind(table: ToleranceTable) -> list[KindNoise]:
    """One row a kind, in the order of a step."""
    groups: dict[Kind, list[NoiseEstimate]] = {}
    for tensor_id, noise in table.noise.items():
        groups.setdefault(tensor_id.kind, []).append(noise)
    return [
        _of_kind(kind, groups[kind], table.policy.dominated_share)
        for kind in Kind
        if kind in groups
    ]


def _of_kind(
    kind: Kind, estimates: Sequence[NoiseEstimate], dominated: float
) -> KindNoise:
    shares = [noise.share for noise in estimates]
    return KindNoise(
        kind=kind.value,
        words=KIND_WORDS[kind],
        num_tensors=len(shares),
        num_silent=sum(share == 0 for share in shares),
        num_dominated=sum(share > dominated for share in shares),
        median=statistics.median(shares),
        largest=max(shares),
    )


def _row(tensor_id: TensorId, noise: NoiseEstimate, dominated: float) -> TensorNoise:
    return TensorNoise(
        id=str(tensor_id),
        norm=noise.reference_norm,
        draws=noise.draws,
        share=noise.share,
        is_dominated=noise.share > dominated,
    )
