"""What a run on the reference's values showed, in lines for people."""

from collections import Counter
from collections.abc import Iterator

from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.report.isolation import IsolatedPlace, Isolation
from ttrace.report.wording import MAX_ROWS, figure

_MAX_REASONS = 3


def isolation_lines(
    isolation: Isolation | None, *, heading: str = "isolation: "
) -> Iterator[str]:
    """The lines; none where a report says nothing of it.

    Args:
        isolation: What the run showed.
        heading: Before the first line, where nothing stands above them.
    """
    if isolation is None:
        return
    if isolation.obstacle:
        yield f"{heading}no result: {isolation.obstacle}"
        return
    yield heading + _head(isolation)
    for number, place in enumerate(isolation.isolated[:MAX_ROWS], 1):
        yield f"{number}. {_place(place)}"
    if len(isolation.isolated) > MAX_ROWS:
        yield f"and {len(isolation.isolated) - MAX_ROWS} more"
    if isolation.left_out:
        yield _left_out(isolation)
    yield from isolation.notes


def _head(isolation: Isolation) -> str:
    ran = (
        f"the candidate ran once more, and in step {isolation.step} its "
        f"modules were given the reference's values ({isolation.num_overwritten} "
        "inputs and output gradients), so that no error was handed on. "
    )
    if not isolation.isolated:
        return ran + (
            "Nothing was wrong then: each module computes from the same what the "
            "reference's does"
        )
    if len(isolation.isolated) == 1:
        return ran + "One place is wrong by itself:"
    return ran + f"{len(isolation.isolated)} places are wrong by themselves:"


def _place(place: IsolatedPlace) -> str:
    name = "the model itself" if place.module == ROOT_MODULE else place.module
    kinds = ", ".join(place.kinds)
    margin = "" if place.margin is None else f", margin {figure(place.margin)}"
    return f"{name} ({kinds}{margin}): {place.sentence}"


def _left_out(isolation: Isolation) -> str:
    brief: Counter[str] = Counter()
    for reason, count in isolation.left_out.items():
        brief[reason.partition(";")[0]] += count  # the rest is what to write about it
    reasons = brief.most_common()
    number = sum(isolation.left_out.values())
    named = "; ".join(f"{count}: {reason}" for reason, count in reasons[:_MAX_REASONS])
    more = len(reasons) - _MAX_REASONS
    rest = f"; and {more} more reasons" if more > 0 else ""
    return (
        f"{number} of what modules were given kept the candidate's own values, and "
        f"errors may have been handed on by them ({named}{rest})"
    )
