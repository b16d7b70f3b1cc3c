"""What it means that two runs have different rows of a tensor."""

from ttrace.compare.rows import RowMatch


def rows_obstacle(rows: RowMatch) -> str | None:
    """Why the rows of two runs that recorded all ranks cannot be told, or None."""
    if rows.contradiction:
        return f"its rows cannot be told: {rows.contradiction}"
    if rows.num_uncovered:
        return f"{rows.num_uncovered} elements of its rows are held by no rank"
    return None


def rows_difference(rows: RowMatch) -> str | None:
    """Which rows only one of two runs has, or None if they have the same."""
    if rows.agree:
        return None
    return (
        f"routed differently: {_rows(rows.num_reference_only)} only in the reference, "
        f"{_rows(rows.num_candidate_only)} only in the candidate, the first at "
        f"position {rows.first_position}; {_rows(rows.num_common)} in common"
    )


def rows_in_part(rows: RowMatch) -> str | None:
    """How much is compared where ranks were left out, or None if all of it is."""
    if rows.contradiction:
        return f"in part: {rows.contradiction}"
    if rows.agree and not rows.num_uncovered:
        return None
    return f"in part: the recorded ranks have {_rows(rows.num_common)} in common"


def _rows(num: int) -> str:
    return f"{num} row" + ("s" if num != 1 else "")
