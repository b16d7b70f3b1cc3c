"""Where the order along a dim depends on data: rows refer to recorded numbers.

A dispatched token may be any token of its micro-batch. A layout then does not say which
index of the logical tensor a row is, but which recorded tensor does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.errors import LayoutError

PADDING = -1
"""The number of a row that is no part of the logical tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPart:
    """Consecutive rows that one rank has numbered.

    Attributes:
        rank: The rank that recorded the numbers; it need not be the one that holds the
            rows.
        numbers: Of the recorded numbers those in the range ``[start, stop)``, in the
            recorded order; all of them if None.
    """

    rank: int
    numbers: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowIndex:
    """Which index of the logical tensor each row of a shard is.

    The rows are the concatenation of the parts. So a rank that was sent its rows by
    others need not know which they are: it is enough that the senders noted what they
    sent, and that it knows the order in which it got them.

    Attributes:
        dim: The dim whose order depends on data.
        id: Text of the id under which the numbers are recorded: int64, ``[rows]``,
            ``PADDING`` for rows that are to be ignored.
        parts: In the order of the rows.
        origin: Subtracted from the numbers, so that indices count from 0.
    """

    dim: int
    id: str
    parts: tuple[IndexPart, ...]
    origin: int = 0

    def __post_init__(self):
        ranges = [part.numbers for part in self.parts if part.numbers is not None]
        if self.dim < 0 or any(not 0 <= start <= stop for start, stop in ranges):
            raise LayoutError(
                "not an index of rows",
                where=self.id,
                expected="a dim from 0 on, and ranges with 0 <= start <= stop",
                got=f"dim {self.dim}, ranges {ranges}",
                remedy="check the numbers that the frontend gives",
            )

    def to_json(self) -> dict:
        value: dict = {
            "dim": self.dim,
            "id": self.id,
            "parts": [[part.rank, *(part.numbers or ())] for part in self.parts],
        }
        if self.origin:
            value["origin"] = self.origin
        return value

    @classmethod
    def from_json(cls, value: Mapping) -> "RowIndex":
        return cls(
            dim=value["dim"],
            id=value["id"],
            parts=tuple(
                IndexPart(rank=rank, numbers=tuple(numbers) if numbers else None)
                for rank, *numbers in value["parts"]
            ),
            origin=value.get("origin", 0),
        )
