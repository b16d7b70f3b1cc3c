"""What comes out of a harvested program: where each value lies, and in what order.

Values only; ``numbering`` turns them into captures with call numbers, ``harvest`` makes
them.
"""

from dataclasses import dataclass, replace
from typing import Any

from ttrace.frontends.jax_parts.taps.sites import SpecEntry, TapSite
from ttrace.frontends.jax_parts.taps.tap import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import OperationPart
from ttrace.ir.tensor_id import Pass, TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One extra output of a program: a tapped value, a flag or a count.

    Attributes:
        slot: Position among the extra outputs.
        dims: Its leading dims, before those of the value itself, outermost first: None
            for the next loop of the path, or the mesh axis whose devices hold one value
            each.
    """

    slot: int
    dims: tuple[str | None, ...] = ()

    def within(self, offset: int, dims: tuple[str | None, ...]) -> "Plane":
        """The same output, as an enclosing program gives it."""
        return Plane(slot=self.slot + offset, dims=(*dims, *self.dims))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop on the way to a tap.

    Attributes:
        length: Number of iterations that leave the program.
        reverse: It runs from the last index to the first.
        count: The number of iterations that ran, an integer, where that is known only
            afterwards; at most ``length`` of them left the program.
    """

    length: int
    reverse: bool = False
    count: Plane | None = None


@dataclass(frozen=True, slots=True)
class Recomputation:
    """On the way to a tap: what follows runs a second time, for backward."""


Path = tuple[int | Loop | Recomputation, ...]
"""The way to an equation: positions in the jaxprs that enclose it, outermost first, and
after the position of a loop or a recomputation, what it is. Paths sort in the order of
execution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One tap of a jaxpr.

    Attributes:
        site: What is tapped.
        role: Whether the value or its cotangent.
        serial: Equal for a value, its recomputation and its cotangent.
        path: The way to it.
        value: Where the value leaves the program; None where nobody wants it.
        taken: A flag that says whether this tap was passed, under a conditional.
        skip: Why the value could not leave the program.
        tiling: How the values of the devices, one for each place on the mesh axes
            among the leading dims, tile the logical one: the entries of a
            ``PartitionSpec``; None where that is not known.
        summed_axes: Mesh axes over which the values of the devices are summands of the
            logical one, as the program sums them up.
        scale: How many times the logical value that is, or each device's is.
        fixed: Why no other value can take the place of this one, which leaves the
            program; None where one can.
        program: Which of the programs of a step, in the order in which they run.
    """

    site: TapSite
    role: Role
    serial: int
    path: Path
    value: Plane | None = None
    taken: Plane | None = None
    skip: str | None = None
    tiling: tuple[SpecEntry, ...] | None = None
    summed_axes: tuple[str, ...] = ()
    scale: int = 1
    fixed: str | None = None
    program: int = 0

    @property
    def kind(self) -> Kind:
        """What the value is."""
        if self.role is Role.VALUE:
            return self.site.kind
        assert self.site.grad is not None
        return self.site.grad

    @property
    def way(self) -> tuple[int, ...]:
        """The positions on the path alone."""
        return tuple(part for part in self.path if isinstance(part, int))

    def within(
        self, path: Path, offset: int, dims: tuple[str | None, ...] = ()
    ) -> "Event":
        """The same tap, as seen from an enclosing jaxpr.

        Args:
            path: The way to the jaxpr that it was in.
            offset: Extra outputs of the enclosing jaxpr that come before.
            dims: Leading dims that all extra outputs got on the way out.
        """

        def moved(plane: Plane | None) -> Plane | None:
            return None if plane is None else plane.within(offset, dims)

        inner = (
            replace(part, count=moved(part.count)) if isinstance(part, Loop) else part
            for part in self.path
        )
        return replace(
            self,
            path=(*path, *inner),
            value=moved(self.value),
            taken=moved(self.taken),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A part of an output of a program.

    Attributes:
        array: The output, with the iterations of all loops in it.
        index: Selects the part out of the leading dims of the array.
        axes: The mesh axes of the leading dims that remain, one value per device;
            behind them come the dims of the value. Empty for a logical value.
    """

    array: Any
    index: tuple[int | slice, ...]
    axes: tuple[str, ...] = ()

    @property
    def num_dims(self) -> int:
        """Number of dims of the value, or of what a device has of it."""
        return self.array.ndim - len(self.index)

    def take(self) -> Any:
        """The part itself, ``[*axes, *value]``; an operation on the device."""
        return self.array[self.index] if self.index else self.array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """One occurrence of a tapped value.

    Attributes:
        site: What it is.
        kind: What it is: the kind of the site, or that of its gradient.
        pass_: First forward, or recomputed.
        call: Nth call of the module within the run of the program.
        order: Captures sort by it as they were computed.
        value: Where it is; None where it was skipped.
        taken: Where a flag is that says which devices computed it, ``[*axes]``; None
            where all did.
        skip: Why it was not captured; None where it was.
        iterations: Index in each enclosing loop, outermost first.
        tiling: As in ``Event``.
        summed_axes: Likewise.
        scale: Likewise.
        event: Position of its event among those of the run; None where it is of none.
        fixed: As in ``Event``.
        operation: Which operand or result of an operation it is; of no other kind.
    """

    site: TapSite
    kind: Kind
    pass_: Pass
    call: int
    order: int
    value: Part | None = None
    taken: Part | None = None
    skip: str | None = None
    iterations: tuple[int, ...] = ()
    tiling: tuple[SpecEntry, ...] | None = None
    summed_axes: tuple[str, ...] = ()
    scale: int = 1
    event: int | None = None
    fixed: str | None = None
    operation: OperationPart | None = None

    def tensor_id(self, step: int, calls_per_microbatch: int | None) -> TensorId:
        """Its identity in a step.

        Args:
            step: The step.
            calls_per_microbatch: How often a micro-batch makes the call; None of what
                is of the whole step.
        """
        microbatch, call = None, self.call
        if calls_per_microbatch is not None:
            microbatch, call = divmod(call, calls_per_microbatch)
        return TensorId(
            step=step,
            microbatch=microbatch,
            module=self.site.module,
            kind=self.kind,
            slot=self.site.slot,
            call=call,
            pass_=self.pass_,
        )
