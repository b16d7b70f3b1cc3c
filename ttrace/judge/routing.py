"""What it means that two runs have different rows of a tensor."""

from ttrace.compare.indexed import RowMatch


def rows_problem(rows: RowMatch) -> str | None:
    """Why the rows of two runs that recorded all ranks are not the same, or None."""
    if rows.contradiction:
        return f"its rows cannot be told: {rows.contradiction}"
    if not rows.agree:
        return (
            f"routed differently: {_rows(rows.num_reference_only)} only in the "
            f"reference, {_rows(rows.num_candidate_only)} only in the candidate, the "
            f"first at position {rows.first_position}; {_rows(rows.num_common)} in "
            "common"
        )
    if rows.num_uncovered:
        return f"{rows.num_uncovered} elements of its rows are held by no rank"
    return None


def rows_in_part(rows: RowMatch) -> str:
    """Says how much is compared where ranks were left out; empty if all of it is."""
    if rows.contradiction:
        return f"in part: {rows.contradiction}"
    if rows.agree and not rows.num_uncovered:
        return ""
    return f"in part: the recorded ranks have {_rows(rows.num_common)} in common"


def _rows(num: int) -> str:
    return f"{num} row" + ("s" if num != 1 else "")
