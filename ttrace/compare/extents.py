"""Which steps, and which micro-batches of them, a run has."""

from collections.abc import Collection, Iterator

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo


class Extent:
    """The steps of a run and their micro-batches, of what it recorded or skipped.

    Args:
        info: The run.

    Attributes:
        microbatches: By step, ascending, its micro-batches.
    """

    def __init__(self, info: TraceInfo):
        found: dict[int, set[int]] = {}
        for id_ in (*info.tensors, *info.skipped):
            of_step = found.setdefault(id_.step, set())
            if id_.microbatch is not None:
                of_step.add(id_.microbatch)
        self.microbatches = {step: frozenset(found[step]) for step in sorted(found)}

    def lacks(self, tensor_id: TensorId) -> str:
        """``step 2``, or ``micro-batch 3 of step 0``, of which the run has nothing.

        Empty where it has some of what the tensor is of.
        """
        step, number = tensor_id.step, tensor_id.microbatch
        if step not in self.microbatches:
            return f"step {step}"
        if number is None or number in self.microbatches[step]:
            return ""
        return f"micro-batch {number} of step {step}"


def ranges(numbers: Collection[int]) -> str:
    """``0-2,5``, as ``--steps`` takes them."""
    return ",".join(_ranges(sorted(numbers)))


def _ranges(numbers: list[int]) -> Iterator[str]:
    start = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            continue
        first, last = numbers[start], numbers[end - 1]
        yield str(first) if first == last else f"{first}-{last}"
        start = end


def ran_together(info: TraceInfo) -> frozenset[int]:
    """Steps of a trace in which an optimizer made several: one was not ended."""
    return frozenset(
        id_.step
        for id_, skipped in info.skipped.items()
        if skipped.came_twice and id_.kind in (Kind.MAIN_GRAD, Kind.UPDATED_PARAM)
    )
