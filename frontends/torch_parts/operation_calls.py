"""The operations of one call of a module: their values are followed and recorded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ttrace.frontends.torch_parts.calls import ModuleCall
from ttrace.frontends.torch_parts.gradients import sequence_number
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.operation_gradients import CallGradients
from ttrace.frontends.torch_parts.operation_values import (
    CallValues,
    Place,
    constants_of,
    tensors_in,
    written_arguments,
)
from ttrace.frontends.torch_parts.program_place import ProgramPlace, place_of_program
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.frontends.torch_parts.tensors import local_values
from ttrace.ir.collective import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import RETURNED, OperationPart, operation_slot

MAX_BYTES = 1 << 30
"""Of operands and results, for each module in a step."""

Named = Iterable[tuple[str, torch.Tensor]]

_SAME_VALUE = frozenset({"aten.detach.default", "aten.alias.default"})
"""Operations that give what they are given."""

_UNWRITTEN = frozenset({"empty", "empty_like", "empty_strided", "new_empty"})
"""Operations whose results hold what lay in that memory before."""

_ON_THE_WAY = frozenset({"c10d", "_c10d_functional", "c10d_functional"})
"""Namespaces of operations whose results are there only when somebody has waited."""

_WAIT = "wait_tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An operation that is about to run: what is known of its results.

    Attributes:
        part: Of its results; of a wait for others, as of an operand.
        given: The memory that it is given.
        written: What it writes into.
        is_on_the_way: Its results are there only when somebody has waited.
    """

    part: OperationPart
    given: frozenset[int | None]
    written: tuple[torch.Tensor, ...]
    is_on_the_way: bool


class CallOperations:
    """Records the operations of one call of a module.

    Args:
        call: Which one.
        module: Has the parameters.
        recorder: Takes the records.
        rank: Global rank of this process.
        budget: Bytes that are left of this module in this step, by its path.
        is_on: Whether what happens now is recorded.
    """

    def __init__(
        self,
        call: ModuleCall,
        module: torch.nn.Module,
        recorder: TensorRecorder,
        rank: int,
        budget: dict[str, int],
        is_on: Callable[[], bool],
    ):
        self.call = call
        self.values = CallValues()
        self._recorder = recorder
        self._rank = rank
        self._budget = budget
        self._is_on = is_on
        self._number = 0
        self._on_the_way: dict[int, OperationPart] = {}
        self._since = sequence_number()
        self._inside: list[tuple[int, int]] = []
        self._lines: dict[int, tuple[str, str]] = {}
        self.values.name(module.named_parameters(), "param/")
        self.values.name(module.named_buffers(), "buffer/")

    @guarded("observe an operation")
    def before(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Running | None:
        """Records operands that are not known; None for what is not recorded."""
        if not isinstance(func, torch._ops.OpOverload) or not self._is_in_budget():
            return None
        name = str(func)
        given = [*tensors_in(args), *tensors_in(list(kwargs.values()))]
        number = self._number
        self._number += 1
        source, library = _lines_of(place_of_program(in_backward=False))
        part = OperationPart(
            name=name,
            number=number,
            role=Role.OPERAND,
            source=source,
            library=library,
        )
        # Autograd has made the node of an operation when it comes here.
        self._lines.setdefault(sequence_number() - 1, (source, library))
        if func._schema.name.endswith(f"::{_WAIT}"):
            return Running(
                part=part, given=frozenset(), written=(), is_on_the_way=False
            )
        keys = tuple(
            self._operand(tensor, replace(part, position=position))
            for position, tensor in enumerate(given)
        )
        return Running(
            part=replace(
                part,
                role=Role.RESULT,
                operands=keys,
                constants=constants_of(func, args, kwargs),
            ),
            given=frozenset(map(self._memory, given)),
            written=tuple(
                tensor
                for position, named in written_arguments(func)
                for tensor in tensors_in(
                    args[position] if position < len(args) else kwargs.get(named)
                )
            ),
            is_on_the_way=func.namespace in _ON_THE_WAY,
        )

    @guarded("observe what an operation gives")
    def after(self, running: Running, returned: Any) -> None:
        """Records the results."""
        part = running.part
        if part.role is Role.OPERAND:  # a wait: what was on the way is there
            for tensor in tensors_in(returned):
                self._operand(tensor, part)
            return
        done: set[Place] = set()
        results = [*tensors_in(returned), *running.written]
        written = {self._memory(tensor) for tensor in running.written}
        for tensor in results:
            place = self.values.place(tensor)
            if place is None or place in done:
                continue
            result = replace(part, position=len(done))
            done.add(place)
            if running.is_on_the_way:
                self.values.write(place, None)
                self._on_the_way[place.memory] = result
            elif part.short_name in _UNWRITTEN:
                self.values.leave_blank(place)
            elif self.values.is_blank(place) and place.memory not in written:
                continue  # a view of it
            elif part.name in _SAME_VALUE and part.operands[0]:
                self.values.know(place, part.operands[0])
            elif self._record(tensor, result):
                if place.memory in written or place.memory not in running.given:
                    self.values.write(place, result.key)
                else:
                    self.values.know(place, result.key)

    def skip_inside(self, since: int) -> None:
        """A module inside has run: the nodes from a number on are its own."""
        self._inside.append((since, sequence_number()))

    @guarded("observe the gradients of operations")
    def observe_gradients(self, outputs: Iterable[torch.Tensor]) -> None:
        """Records what the backward computes of these operations, when it runs."""
        gradients = CallGradients(
            self._record,
            self._since,
            sequence_number(),
            tuple(self._inside),
            self._lines,
        )
        gradients.observe(outputs)

    @guarded("observe what a module returns")
    def end(self, outputs: Named) -> None:
        """Records what the call returns, where no operation gave it as it is."""
        for position, (_, tensor) in enumerate(outputs):
            if self._is_in_budget():
                part = OperationPart(
                    name=RETURNED,
                    number=self._number,
                    role=Role.OPERAND,
                    position=position,
                )
                self._operand(local_values(tensor), part)

    def _memory(self, tensor: torch.Tensor) -> int | None:
        place = self.values.place(tensor)
        return None if place is None else place.memory

    def _operand(self, tensor: torch.Tensor, part: OperationPart) -> str:
        """The key of what an operation takes, which is recorded if it is not known."""
        place = self.values.place(tensor)
        if place is None:
            return ""
        key = self.values.key(place)
        if key is not None or self.values.is_blank(place):
            return key or ""
        result = self._on_the_way.pop(place.memory, None)
        if result is not None:
            if self._record(tensor, result):
                self.values.write(place, result.key)
            return result.key
        writers = self.values.writers(place)
        part = replace(
            part,
            operands=writers,
            origin="" if writers else self.values.origin(place),
        )
        if not self._record(tensor, part):
            return ""
        self.values.know(place, part.key)
        return part.key

    def _is_in_budget(self) -> bool:
        return self._budget.get(self.call.path, MAX_BYTES) > 0

    def _record(self, tensor: torch.Tensor, part: OperationPart) -> bool:
        left = self._budget.get(self.call.path, MAX_BYTES)
        if left <= 0 or not self._is_on():
            return False
        left -= tensor.numel() * tensor.element_size()
        self._budget[self.call.path] = left
        if left <= 0:
            self._recorder.skip(
                replace(self.call.tensor_id(Kind.OP, "0"), slot=None),
                "the operations of this module have more than "
                f"{MAX_BYTES >> 30} GiB of operands and results in this step, and no "
                "further ones of it are recorded",
            )
            return False
        id_ = self.call.tensor_id(Kind.OP, operation_slot(part, self._rank))
        self._recorder.operation(id_, tensor, part)
        return True


def _lines_of(place: ProgramPlace) -> tuple[str, str]:
    """The lines of the script and of the library that ask for an operation.

    In a library's own module its line tells all, and that of the script, which only
    calls the model, nothing. Layers of torch are too small for that.
    """
    if place.caller and not place.is_source_inside:
        return "", place.caller
    return place.source, place.caller or place.library
