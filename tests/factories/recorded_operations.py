"""Operations of a step of JAX, recorded in this process, as values that can be read."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttrace.frontends import jax_capture
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.collective import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import OperationPart
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace

_OF_NAME: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "add_any": np.add,
    "convert_element_type": lambda x: x,
    "cos": np.cos,
    "div": np.divide,
    "exp": np.exp,
    "max": np.maximum,
    "mul": np.multiply,
    "neg": np.negative,
    "scan": lambda *parts: np.stack(parts),
    "sin": np.sin,
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
    "tanh": np.tanh,
}
"""What primitives of arrays alone compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An operand or a result.

    Attributes:
        part: What was recorded of it.
        array: What the device holds.
        module: Whose.
        call: Of the module.
        microbatch: Likewise.
        rank: Of the device.
    """

    part: OperationPart
    array: np.ndarray
    module: str
    call: int
    microbatch: int | None
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """What one run recorded.

    Attributes:
        results: What the step gave.
        values: All operands and results, in order.
        skipped: Reasons, by module.
    """

    results: Any
    values: list[Value]
    skipped: dict[str, str]

    def of(
        self, module: str, call: int = 0, *, backward: bool = False, rank: int = 0
    ) -> dict[str, Value]:
        """The values of a call, by key."""
        found = {}
        for value in self.values:
            if (
                (value.module, value.call, value.rank) == (module, call, rank)
                and value.part.is_backward is backward
                and not value.microbatch
            ):
                assert value.part.key not in found
                found[value.part.key] = value
        return found

    def names(self, module: str, call: int = 0, *, backward: bool = False) -> list[str]:
        """The names of the operations of a call, in order."""
        results = [
            value.part
            for value in self.of(module, call, backward=backward).values()
            if value.part.role is Role.RESULT
        ]
        numbers = {part.number: part.name for part in results}
        assert sorted(numbers) == list(range(len(numbers)))
        return [numbers[number] for number in sorted(numbers)]


def recorded_operations(
    step: Callable[..., Any],
    *args: Any,
    modules: tuple[str, ...],
    num_steps: int = 1,
    **options: Any,
) -> Operations:
    """Runs a step once, or more often on the same arguments.

    Args:
        step: Of any sort.
        args: Its arguments.
        modules: Whose operations are recorded.
        num_steps: How often it runs; the first step is recorded.
        options: Of ``jax_capture.trace``.
    """
    capture = CaptureFilter(
        modules=(),
        kinds=frozenset({Kind.OP}),
        steps=frozenset({0}),
        operations=modules,
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        request = RecordRequest(out=Path(folder) / "trace", capture=capture)
        for name, value in request.to_environment().items():
            patch.setenv(name, value)
        traced = jax_capture.trace(step, **options)
        assert isinstance(traced, jax_capture.TracedStep)
        with traced:
            results = [traced(*args) for _ in range(num_steps)][-1]
        trace = open_trace(request.out)
        values = [
            Value(
                part=shard.operation,
                array=np.array(trace.load(shard)),
                module=id_.module,
                call=id_.call,
                microbatch=id_.microbatch,
                rank=shard.rank,
            )
            for id_, record in trace.info.tensors.items()
            for shard in record.shards
            if shard.operation is not None
        ]
        skipped = {id_.module: s.reason for id_, s in trace.info.skipped.items()}
    return Operations(results=results, values=values, skipped=skipped)


def checked(values: dict[str, Value]) -> Iterator[str]:
    """Computes results of what they say they were computed of; names what was.

    Only those of which all is known, and that take arrays alone.
    """
    for value in values.values():
        part = value.part
        compute = _OF_NAME.get(part.name)
        literals = [
            text for text in part.constants if text.startswith(("left", "right"))
        ]
        if part.role is not Role.RESULT or compute is None or literals:
            continue
        if not part.operands or not all(part.operands):
            continue
        computed = compute(*(values[key].array for key in part.operands))
        np.testing.assert_allclose(computed, value.array, rtol=1e-5, atol=1e-6)
        yield part.name
