"""Which equation of a module's call a tapped value is a part of: plain values.

A program says where values come from only as long as it is looked at equation by
equation. What is noted of each here tells, once the program has run, which record of an
operand is the record of a result: through calls, loops and branches.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from ttrace.ir.collective import Role


class Direction(StrEnum):
    """What an equation of a module's call is for."""

    FORWARD = "forward"
    DERIVATIVE = "derivative"
    """It runs in the forward, for the backward alone."""
    BACKWARD = "backward"


class Reference:
    """Which value a variable has, as seen from the jaxpr that the variable is in."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made(Reference):
    """A value of its own, once for each time that the jaxpr runs.

    Attributes:
        token: Tells it apart from all others of the program.
    """

    token: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outer(Reference):
    """In the body of a loop: a value from around it.

    Attributes:
        of: As seen from around the loop.
    """

    of: Reference


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice(Reference):
    """In the body of a scan: an iteration's part of a value from around it.

    Attributes:
        of: As seen from around the scan.
        token: As in ``Made``.
    """

    of: Reference
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopWay:
    """How a loop runs.

    Attributes:
        token: As in ``Made``.
        length: Number of iterations; None where the program decides.
        reverse: From the last index to the first.
    """

    token: int
    length: int | None
    reverse: bool = False

    @property
    def first(self) -> int:
        """Index of the iteration that comes first."""
        return self.length - 1 if self.reverse and self.length else 0

    def before(self, index: int) -> int:
        """Index of the iteration that comes before another one."""
        return index + 1 if self.reverse else index - 1


@dataclass(slots=True, kw_only=True, eq=False)
class Carried(Reference):
    """In the body of a loop: what the iteration before left, or what came first.

    Attributes:
        token: As in ``Made``.
        first: As seen from around the loop.
        loop: Which one.
        next: What an iteration leaves, as seen from its end; set once that is known.
    """

    token: int
    first: Reference
    loop: LoopWay
    next: Reference | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Last(Reference):
    """Behind a loop: what its last iteration left.

    Attributes:
        token: As in ``Made``.
        of: As seen from the end of an iteration.
        first: What is left where none ran.
        loop: Which one.
    """

    token: int
    of: Reference
    first: Reference
    loop: LoopWay


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stacked(Reference):
    """Behind a scan: what all iterations left, one after the other.

    Attributes:
        of: As seen from the end of an iteration.
        loop: Which one.
    """

    of: Reference
    loop: LoopWay


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen(Reference):
    """Behind a conditional: what the branch left that was taken.

    Attributes:
        token: As in ``Made``.
        branches: The token of each branch, and what it leaves.
    """

    token: int
    branches: tuple[tuple[int, Reference], ...]


def token_of(reference: Reference) -> int:
    """The token of a value, wherever it is seen from."""
    while isinstance(reference, Outer):
        reference = reference.of
    assert isinstance(reference, Made | Slice | Carried | Last | Chosen)
    return reference.token


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMark:
    """One call of a module while a program was traced.

    Attributes:
        serial: Sets it apart from all others.
        module: Module path, as in ``TensorId``.
        method: Empty for the module itself.
    """

    serial: int
    module: str
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What belongs to one call of a module, in one jaxpr and those inside of it.

    Attributes:
        token: As in ``Made``.
        mark: The call.
        depth: Number of loops around.
    """

    token: int
    mark: CallMark
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Equation:
    """An equation of a program, one of a module's call.

    Attributes:
        token: As in ``Made``.
        unit: What it belongs to.
        direction: What it is for.
        name: Of its primitive.
        operands: What it takes, in order, without literals.
        constants: What it takes besides, as in ``OperationPart``.
        source: Likewise.
        library: Likewise.
        around: Loops and branches around it, by token, each with the number of loops
            around that.
    """

    token: int
    unit: Unit
    direction: Direction
    name: str
    operands: tuple[Reference, ...] = ()
    constants: tuple[str, ...] = ()
    source: str = ""
    library: str = ""
    around: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperationSite:
    """A value of an equation.

    Attributes:
        equation: Which one.
        role: Operand or result.
        position: Which of the operands, or of the results, that are arrays.
        value: Which value it is.
        origins: As in ``OperationPart``, if anything; of a result they come later.
        first_origin: Likewise, of what a loop carries, in its first iteration.
    """

    equation: Equation
    role: Role
    position: int
    value: Reference
    origins: list[str] = field(default_factory=list)
    first_origin: str = ""
