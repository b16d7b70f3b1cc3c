"""What a recorded operand or result of one operation is a part of: a plain value.

The operations of one call of a module, on one rank, are numbered in the order in which
they ran. Their results are recorded one by one; what an operation takes that none of
them made (an input of the module, a parameter, what a module inside returned) is
recorded once, as an operand of the first that takes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.ir.collective import Role

OPERATION_FRAMEWORKS = frozenset({"jax", "megatron", "torch"})
"""Frontends that record operations, by the name under which they record."""

RETURNED = "return"
"""Name of the operation of which an operand is what a call returns as it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationPart:
    """Of which operation a rank's tensor is an operand or a result.

    Attributes:
        name: As the framework calls it, e.g. ``aten.mul.Tensor`` or ``dot_general``.
        number: How many of the call ran before it, on this rank and in this pass.
        role: Operand or result.
        position: Which of the operands, or of the results, that are tensors.
        operands: Of a result: the keys of what its operation takes, in order; of an
            operand: those of the results that it was written from, mostly none. An
            operand of which no values are known is an empty text.
        constants: What the operation takes besides tensors, such as ``alpha=2`` or
            ``dim=-1``, in order; of what is returned as it was given, its slot among
            the outputs, ``slot=0``, where that is known.
        origin: What an operand is to its module: ``input/0``, ``param/weight``, or
            ``output/proj/0`` for what a module inside returned; in a backward likewise
            ``grad_output/0``, or ``forward/3.result.0`` for what the forward of the
            call gave. Of a result: what becomes of it, ``output/0`` or
            ``input/proj/0``, several with commas between. Empty where not known.
        is_backward: A backward pass ran it. Numbers count anew in it.
        source: ``train.py:88``, the line of the script that asked for it, or in the
            backward for the operation whose gradient it takes; empty where none did.
        library: The same of the nearest library; empty where the script called itself.
    """

    name: str
    number: int
    role: Role
    position: int = 0
    operands: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    origin: str = ""
    is_backward: bool = False
    source: str = ""
    library: str = ""

    @property
    def key(self) -> str:
        """Names the tensor among those of its call, rank and pass: ``3.result.0``."""
        return f"{self.number}.{self.role.value}.{self.position}"

    @property
    def short_name(self) -> str:
        """The name without the framework's names around it: ``mul``."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[1] else parts[0]

    @property
    def line(self) -> str:
        """``train.py:88``, or of a library where no script asked; may be empty."""
        return self.source or self.library

    def to_json(self) -> dict:
        value: dict = {
            "name": self.name,
            "number": self.number,
            "role": self.role.value,
        }
        if self.position:
            value["position"] = self.position
        for field in ("operands", "constants"):
            if getattr(self, field):
                value[field] = list(getattr(self, field))
        if self.is_backward:
            value["is_backward"] = True
        for field in ("origin", "source", "library"):
            if getattr(self, field):
                value[field] = getattr(self, field)
        return value

    @classmethod
    def from_json(cls, value: Mapping) -> "OperationPart":
        return cls(
            name=value["name"],
            number=value["number"],
            role=Role(value["role"]),
            position=value.get("position", 0),
            operands=tuple(value.get("operands", ())),
            constants=tuple(value.get("constants", ())),
            origin=value.get("origin", ""),
            is_backward=value.get("is_backward", False),
            source=value.get("source", ""),
            library=value.get("library", ""),
        )


def operation_slot(part: OperationPart, rank: int) -> str:
    """The slot of a recorded operand or result: ``3.mul.result.0.rank1``."""
    backward = "backward." if part.is_backward else ""
    name = part.short_name
    return (
        f"{backward}{part.number}.{name}.{part.role.value}.{part.position}.rank{rank}"
    )
