"""Small graphs of operations in memory, and calls of them with one that is wrong."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.isolation.operations.agreement import Form, forms_of
from ttrace.isolation.operations.call import Operation, OperationCall
from ttrace.isolation.operations.first_difference import (
    FirstDifference,
    first_difference,
)
from ttrace.isolation.operations.twins import find_twins

CALL = parse_tensor_id("step0/mb0/net/op/x")
TOLERANCE = 1e-6


def _softmax(x: np.ndarray, factor: float) -> np.ndarray:
    powers = np.exp(factor * (x - x.max(-1, keepdims=True)))
    return powers / powers.sum(-1, keepdims=True)


KINDS: Mapping[str, tuple[int, Callable[..., np.ndarray]]] = {
    "mul": (1, lambda x, factor: x * factor),
    "add": (2, lambda x, y, factor: x + factor * y),
    "tanh": (1, lambda x, factor: np.tanh(factor * x)),
    "softmax": (1, _softmax),
    "matmul": (2, lambda x, y, factor: factor * (x @ y)),
    "layer_norm": (
        1,
        lambda x, factor: x / np.sqrt((x * x).mean(-1, keepdims=True) + factor),
    ),
}
"""Number of operands, and what it computes of them and of a constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation of a graph.

    Attributes:
        name: One of ``KINDS``.
        operands: Numbers of values: inputs first, then what steps give, in order.
        factor: Its constant.
    """

    name: str
    operands: tuple[int, ...]
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A graph that ran.

    Attributes:
        call: Its operations, of which the numbers are those of the steps.
        arrays: Its values by key.
        output: Key of the last one.
    """

    call: OperationCall
    arrays: Mapping[str, np.ndarray]
    output: str

    def forms(
        self, cut: Callable[[np.ndarray], Sequence[np.ndarray]] = lambda array: [array]
    ) -> dict[str, tuple[Form, ...]]:
        """The forms of its values, of which each rank holds what ``cut`` gives."""
        return {
            key: forms_of({(CALL, rank): part for rank, part in enumerate(cut(array))})
            for key, array in self.arrays.items()
        }


def run(
    steps: Sequence[Step], inputs: Sequence[np.ndarray], *, file: str = "ref.py"
) -> Ran:
    """Computes a graph; step n stands in line n + 1 of a file."""
    values = list(inputs)
    keys = [f"{number}.operand.0" for number in range(len(inputs))]
    operations = []
    for number, step in enumerate(steps):
        given = [values[place] for place in step.operands]
        values.append(KINDS[step.name][1](*given, step.factor))
        operations.append(
            Operation(
                name=step.name,
                number=number,
                operands=tuple(keys[place] for place in step.operands),
                results=(f"{number}.result.0",),
                constants=(f"factor={step.factor}",),
                line=f"{file}:{number + 1}",
            )
        )
        keys.append(f"{number}.result.0")
    return Ran(
        call=OperationCall(
            operations=tuple(operations),
            given={key: f"input/{i}" for i, key in enumerate(keys[: len(inputs)])},
        ),
        arrays=dict(zip(keys, values, strict=True)),
        output=keys[-1],
    )


def compared(
    reference: Ran,
    candidate: Ran,
    cut: Callable[[np.ndarray], Sequence[np.ndarray]] = lambda array: [array],
) -> FirstDifference | None:
    """What is found of two graphs, of which the candidate's is cut over ranks."""
    twins = find_twins(candidate.forms(cut), reference.forms(), TOLERANCE)
    return first_difference(
        candidate.call,
        reference.call,
        twins,
        wrong=(candidate.output,),
        expected=(reference.output,),
    )


def changed(steps: Sequence[Step], number: int, **fields) -> list[Step]:
    """The steps with fields of one replaced."""
    found = list(steps)
    found[number] = dataclasses.replace(found[number], **fields)
    return found
