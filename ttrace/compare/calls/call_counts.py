"""How often both runs call a module in a micro-batch; from what they recorded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TraceInfo

Place = tuple[int, int | None, str]
"""A step, a micro-batch, and a module that runs there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCount:
    """How often both runs call a module in a micro-batch.

    Attributes:
        reference: Calls there; at least one.
        candidate: Calls there; at least one.
    """

    reference: int
    candidate: int


def differing_calls(
    reference: TraceInfo, candidate: TraceInfo
) -> Mapping[Place, CallCount]:
    """The places where both runs call a module, and not as often."""
    of_reference, of_candidate = _calls(reference), _calls(candidate)
    return {
        place: CallCount(reference=len(calls), candidate=len(of_candidate[place]))
        for place, calls in of_reference.items()
        if place in of_candidate and len(of_candidate[place]) != len(calls)
    }


def _calls(info: TraceInfo) -> dict[Place, set[int]]:
    """By place the calls whose input or output was recorded, or skipped one by one."""
    found: dict[Place, set[int]] = {}
    unknown: set[Place] = set()
    for tensor_id in info.tensors:
        if tensor_id.kind in (Kind.INPUT, Kind.OUTPUT) and (
            tensor_id.pass_ is Pass.FORWARD
        ):
            found.setdefault(place_of(tensor_id), set()).add(tensor_id.call)
    for tensor_id in info.skipped:
        if tensor_id.kind in ACTIVATIONS and tensor_id.slot is None:
            unknown.add(place_of(tensor_id))  # stands for all calls of it
        elif tensor_id.kind is Kind.OUTPUT and tensor_id.pass_ is Pass.FORWARD:
            found.setdefault(place_of(tensor_id), set()).add(tensor_id.call)
    return {place: calls for place, calls in found.items() if place not in unknown}


def num_calls(info: TraceInfo) -> dict[Place, int]:
    """By place how often a run calls the module."""
    return {place: len(calls) for place, calls in _calls(info).items()}


def place_of(tensor_id: TensorId) -> Place:
    """Where a call was made that a tensor is of."""
    return tensor_id.step, tensor_id.microbatch, tensor_id.module


def calls_text(counts: Iterable[CallCount]) -> str:
    """``called 3 to 4 times in the reference, once in the candidate``."""
    counts = list(counts)
    numbers = (
        {count.reference for count in counts},
        {count.candidate for count in counts},
    )
    of_reference, of_candidate = (_times(of_run) for of_run in numbers)
    return f"called {of_reference} in the reference, {of_candidate} in the candidate"


def _times(numbers: Iterable[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low != high:
        return f"{low} to {high} times"
    return {1: "once", 2: "twice"}.get(low, f"{low} times")
