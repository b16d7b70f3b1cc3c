"""What a recorded operand or result of a collective is a part of: a plain value."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

OWN = "own"
"""Stands for the mesh in the layout of an operand or a result, which is one rank's own:
no other rank has a replica or a part of it. No mesh has this name."""


class Role(StrEnum):
    """What a collective does with a tensor."""

    OPERAND = "operand"
    RESULT = "result"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePart:
    """Of which collective a rank's tensor is an operand or a result.

    Ranks run the collectives of a group in one order: those of the same number are one.

    Attributes:
        name: As ``torch.distributed`` calls it, e.g. ``all_reduce``.
        number: How many this rank ran on the group before, since tracing began.
        group: Global ranks of the group, in its order.
        group_name: Tells groups of the same ranks apart; equal on all of them.
        role: Operand or result.
        position: Which of the operands, or of the results.
        reduction: ``sum``, ``avg``, ``max``...; empty where nothing is reduced.
        root: Global rank that sends or receives alone; None where all do.
        splits: Rows of dim 0 for each rank of the group, of an operand or a result
            that is cut in unequal parts; empty where the parts are equal.
        source: ``train.py:88``, the line of the script that asked for it; empty where
            no line of a script was running.
        library: The same of the nearest library; empty where the script called itself.
    """

    name: str
    number: int
    group: tuple[int, ...]
    group_name: str
    role: Role
    position: int = 0
    reduction: str = ""
    root: int | None = None
    splits: tuple[int, ...] = ()
    source: str = ""
    library: str = ""

    @property
    def place(self) -> str:
        """``all_reduce at train.py:88``."""
        line = self.source or self.library
        if self.source and self.library:
            line = f"{self.source} (through {self.library})"
        return f"{self.name} at {line}" if line else self.name

    def to_json(self) -> dict:
        value: dict = {
            "name": self.name,
            "number": self.number,
            "group": _ranks_text(self.group),
            "group_name": self.group_name,
            "role": self.role.value,
        }
        if self.position:
            value["position"] = self.position
        if self.reduction:
            value["reduction"] = self.reduction
        if self.root is not None:
            value["root"] = self.root
        if self.splits:
            value["splits"] = list(self.splits)
        if self.source:
            value["source"] = self.source
        if self.library:
            value["library"] = self.library
        return value

    @classmethod
    def from_json(cls, value: Mapping) -> "CollectivePart":
        return cls(
            name=value["name"],
            number=value["number"],
            group=_parse_ranks(value["group"]),
            group_name=value["group_name"],
            role=Role(value["role"]),
            position=value.get("position", 0),
            reduction=value.get("reduction", ""),
            root=value.get("root"),
            splits=tuple(value.get("splits", ())),
            source=value.get("source", ""),
            library=value.get("library", ""),
        )


def _ranks_text(ranks: tuple[int, ...]) -> str:
    """``0,3`` or, where they are evenly spaced, ``0-24:8``: groups may be large."""
    if len(ranks) > 2:
        step = ranks[1] - ranks[0]
        if step > 0 and ranks == tuple(range(ranks[0], ranks[-1] + 1, step)):
            return f"{ranks[0]}-{ranks[-1]}:{step}"
    return ",".join(map(str, ranks))


@functools.lru_cache(1 << 12)
def _parse_ranks(text: str) -> tuple[int, ...]:
    """Reverses ``_ranks_text``; equal texts give one and the same tuple."""
    if ":" in text:
        ends, _, step = text.partition(":")
        first, _, last = ends.partition("-")
        return tuple(range(int(first), int(last) + 1, int(step)))
    return tuple(map(int, text.split(",")))
