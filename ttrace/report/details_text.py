"""What a closer look at the first divergence told, in words."""

import math

from ttrace.compare.details.tensor_details import ErrorPlace
from ttrace.report.model import Report
from ttrace.report.tensor_report import TensorReport

_WHOLE = 0.95
"""From this share of its elements on, a tensor is wrong as a whole."""

_FEW = 0.5
"""Up to this share of its elements, they may have something in common."""

_PARALLEL = 1e-6
"""What the cosine of a multiple may be less than 1."""

_SAME_NORM = 1e-5
"""How far norms of the same elements, in two orders, are apart."""

_MAX_RUNS = 4
"""Of neighbouring ranks, that are named."""

_PLACED = frozenset({"confined_error", "embedding_rows", "added_bias", "dropout"})
"""Codes of what tells more exactly which elements are wrong."""


def closer_look_sentence(report: Report) -> str:
    """Says of the first divergence how many elements are off, and where they lie.

    Returns:
        Empty where nothing was looked at, no element is off by much, or a diagnosis
        says what is wrong with all of them.
    """
    first = report.first_divergence
    tensor = next(
        (t for t in report.tensors if first is not None and t.id == first.id), None
    )
    if tensor is None or tensor.details is None or not tensor.details.num_beyond:
        return ""
    if (tensor.num_elements or 0) <= 1:
        return ""  # all of it is in its figures
    codes = {item.code for item in report.diagnosis if tensor.id in item.tensor_ids}
    if codes and tensor.details.num_beyond > _WHOLE * (tensor.num_elements or 0):
        return ""  # what is wrong with all of it is told
    return _sentence(
        tensor, tensor.details.place, is_placed=not codes.isdisjoint(_PLACED)
    )


def _sentence(
    tensor: TensorReport, place: ErrorPlace | None, *, is_placed: bool
) -> str:
    assert tensor.details is not None
    number, total = tensor.details.num_beyond, tensor.num_elements or 0
    one = number == 1
    text = (
        f"{number} of the {total} elements of {tensor.id} {'is' if one else 'are'} "
        f"off{_limit(tensor)}"
    )
    if is_placed:
        return text
    if one and tensor.max_abs_err_at and not any(tensor.nan or ()):
        at = list(tensor.max_abs_err_at)
        return f"{text}, at {at}: look at what computes this element"
    if place is not None:
        return (
            f"{text}, and {100 * place.share:.3g} % of the squared error lies at "
            f"{_place_text(place)}: look for what is done to these alone"
        )
    if number > _WHOLE * total:
        return f"{text}: {_of_all(tensor)}"
    if number <= _FEW * total:
        return f"{text}: look at what these have in common"
    return ""


def _of_all(tensor: TensorReport) -> str:
    """What may be said where hardly any element agrees, and no diagnosis does."""
    cosine, fit = tensor.cosine, tensor.scale_fit
    if not cosine or not fit:
        return "look for what changes all of it"
    if abs(cosine) > 1 - _PARALLEL:
        return f"all of it is {fit:.4g} times the reference's"
    # The fit is the ratio of the norms, times the cosine.
    alike = (
        "its norm is the reference's, as where the same elements lie in another order"
        if math.isclose(fit / cosine, 1, rel_tol=_SAME_NORM)
        else "no one factor makes it the reference's"
    )
    return (
        f"{alike} (cosine {cosine:.3g}). Go through the operations of both in their "
        "order: which there are, over which dims, and with which settings"
    )


def _limit(tensor: TensorReport) -> str:
    """Beyond what an element is off; empty where nothing was tolerated."""
    if not tensor.tolerance or not tensor.num_elements or not tensor.reference_norm:
        return ""
    rms = tensor.reference_norm / math.sqrt(tensor.num_elements)
    return (
        f" by more than {tensor.tolerance * rms:.3g} (tolerance x root mean square of "
        "the reference)"
    )


def _place_text(place: ErrorPlace) -> str:
    ranges = ", ".join(
        str(start) if stop == start + 1 else f"{start}:{stop}"
        for start, stop in place.ranges
    )
    is_one = len(place.ranges) == 1 and place.ranges[0][1] == place.ranges[0][0] + 1
    text = f"{'index' if is_one else 'indices'} {ranges} of dim {place.dim}"
    if not place.ranks:
        return text
    ranks = _ranks_text(place.ranks)
    if len(place.ranks) == 1:
        return f"{text}, which only rank {ranks} of the candidate holds"
    return f"{text}, which only ranks {ranks} of the candidate hold"


def _ranks_text(ranks: tuple[int, ...]) -> str:
    """``0-2, 5`` of ascending ranks, and how many more there are of very many."""
    starts = [n for n, rank in enumerate(ranks) if not n or ranks[n - 1] != rank - 1]
    runs = [
        ranks[start:stop]
        for start, stop in zip(starts, [*starts[1:], len(ranks)], strict=True)
    ]
    texts = [
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"
        for run in runs[:_MAX_RUNS]
    ]
    num_left = sum(map(len, runs[_MAX_RUNS:]))
    return ", ".join(texts) + (f" and {num_left} more" if num_left else "")
