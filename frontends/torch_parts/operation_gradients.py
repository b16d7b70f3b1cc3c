"""Records what the nodes of the gradient graph take and give that a call has made.

Hooks on nodes change no value, and add none to the graph. A node stands where the
operation stood whose gradient it takes; that of a function with a backward of its own
stands where this one is.
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import CodeType
from typing import Any

import torch

from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.operation_values import CallValues
from ttrace.frontends.torch_parts.tensors import local_values
from ttrace.ir.collective import Role
from ttrace.ir.operation import OperationPart
from ttrace.recording.source_lines import short_line

Record = Callable[[torch.Tensor, OperationPart], bool]
"""Records a tensor; whether that was possible."""

Lines = Mapping[int, tuple[str, str]]
"""By the number of a node: the lines of script and library that made it."""

_GIVEN = "grad"
"""What a gradient is to a module that comes from outside of its own code."""


class CallGradients:
    """Observes the nodes that a call has made, when a backward runs through them.

    Args:
        record: Takes operands and results.
        since: Number of the first node that the call can have made.
        until: Of the first one that it can no longer have made.
        inside: The same of each module that it has called: these nodes are not its own.
        lines: Where nodes were made.
    """

    def __init__(
        self,
        record: Record,
        since: int,
        until: int,
        inside: Sequence[tuple[int, int]],
        lines: Lines,
    ):
        self._record = record
        self._since, self._until, self._inside = since, until, inside
        self._lines = lines
        self._values = CallValues()
        self._lock = threading.RLock()
        self._number = 0
        self._makers: dict[tuple[Any, int], list[tuple[Any, int]]] = {}
        self._keys: dict[tuple[Any, int], str] = {}

    def observe(self, outputs: Iterable[torch.Tensor]) -> None:
        """Puts hooks on the nodes behind what the call returns."""
        waiting = [t.grad_fn for t in outputs if t.grad_fn is not None]
        seen = set()
        while waiting:
            node = waiting.pop()
            if node in seen or not self._is_of_call(node):
                continue
            seen.add(node)
            for position, (next_, index) in enumerate(node.next_functions):
                if next_ is not None:
                    self._makers.setdefault((next_, index), []).append((node, position))
                    waiting.append(next_)
            if self._is_own(node):
                self._hook(node)

    def _is_of_call(self, node: Any) -> bool:
        return self._since <= node._sequence_nr() < self._until

    def _is_own(self, node: Any) -> bool:
        number = node._sequence_nr()
        return not any(since <= number < until for since, until in self._inside)

    def _hook(self, node: Any) -> None:
        parts: list[OperationPart] = []  # of the first backward through it

        @guarded("observe what a node of the backward takes")
        def before(gradients: tuple[torch.Tensor | None, ...]) -> None:
            if not parts:
                with self._lock:
                    parts.append(self._taken(node, gradients))

        @guarded("observe what a node of the backward gives")
        def after(
            results: tuple[torch.Tensor | None, ...], _: tuple[torch.Tensor | None, ...]
        ) -> None:
            if len(parts) == 1:
                parts.append(parts[0])
                with self._lock:
                    self._given(node, parts[0], results)

        node.register_prehook(before)
        node.register_hook(after)

    def _taken(
        self, node: Any, gradients: tuple[torch.Tensor | None, ...]
    ) -> OperationPart:
        number = self._number
        self._number += 1
        source, library = self._line(node)
        part = OperationPart(
            name=node.name().rpartition("::")[2],
            number=number,
            role=Role.OPERAND,
            is_backward=True,
            source=source,
            library=library,
        )
        keys = tuple(
            "" if gradient is None else self._operand(node, index, gradient, part)
            for index, gradient in enumerate(gradients)
        )
        return replace(part, role=Role.RESULT, operands=keys)

    def _operand(
        self, node: Any, index: int, gradient: torch.Tensor, part: OperationPart
    ) -> str:
        tensor = local_values(gradient)
        place = self._values.place(tensor)
        if place is None:
            return ""
        key = self._values.key(place)
        if key is not None:
            return key
        made_by = [
            self._keys[one]
            for one in self._makers.get((node, index), ())
            if one in self._keys
        ]
        part = replace(
            part,
            position=index,
            operands=tuple(made_by),
            origin="" if made_by else _GIVEN,
        )
        if not self._record(tensor, part):
            return ""
        self._values.know(place, part.key)
        return part.key

    def _given(
        self,
        node: Any,
        part: OperationPart,
        results: tuple[torch.Tensor | None, ...],
    ) -> None:
        for position, result in enumerate(results):
            if result is None:
                continue
            tensor = local_values(result)
            place = self._values.place(tensor)
            if place is None:
                continue
            key = self._values.key(place)  # it hands on what it was given
            if key is None:
                one = replace(part, position=position)
                if not self._record(tensor, one):
                    continue
                key = one.key
                self._values.know(place, key)
            self._keys[node, position] = key

    def _line(self, node: Any) -> tuple[str, str]:
        """The line of the script, and of the library."""
        function = getattr(type(node), "_forward_cls", None)
        backward = inspect.unwrap(getattr(function, "backward", None) or _no_backward)
        code = getattr(backward, "__code__", None)
        if backward is not _no_backward and code is not None:
            module = getattr(backward, "__module__", "") or ""
            return short_line(module, code.co_filename, _first_line(code)), ""
        return self._lines.get(node._sequence_nr(), ("", ""))


def _first_line(code: CodeType) -> int:
    """That of the first statement; decorators and signature come before it."""
    first = code.co_firstlineno
    lines = (line for _, _, line in code.co_lines() if line and line > first)
    return min(lines, default=first)


def _no_backward() -> None:
    """Stands for that of a node that is none of a function of Python."""
