"""What the model of one run was given in a step: its inputs, and their rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Set

import numpy as np

from ttrace.compare.align import is_rank_filtered
from ttrace.compare.assembled import assembled
from ttrace.compare.samples.batch_dims import Described
from ttrace.compare.samples.samples import Place, is_model_input
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import PER_MICROBATCH, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord
from ttrace.ir.trace_source import TraceSource

Inputs = Mapping[int, Mapping[str, TensorRecord]]
"""By micro-batch and slot."""


class StepInputs:
    """The inputs of one run's model in one step.

    Args:
        side: Which run it is.
        trace: The run.
        step: Its step.
        ids: What it recorded of the step's micro-batches.
        num_evaluations: How often the optimizer called its closure in the step.

    Attributes:
        side: As given.
        trace: As given.
        numbers: Its micro-batches, ascending.
        inputs: The slots that all micro-batches have; empty if there is none.
        has_calls: The model was called several times in a micro-batch.
        num_evaluations: As given.
    """

    def __init__(
        self,
        side: Side,
        trace: TraceSource,
        ids: list[TensorId],
        *,
        num_evaluations: int = 1,
    ):
        self.side = side
        self.trace = trace
        self.num_evaluations = num_evaluations
        self.numbers = sorted({id_.microbatch or 0 for id_ in ids})
        self.has_calls = any(id_.call for id_ in ids if is_model_input(id_))
        given = _before_any_output(ids)
        found: dict[int, dict[str, TensorRecord]] = {n: {} for n in self.numbers}
        for id_ in given:
            if not id_.call:
                slots = found[id_.microbatch or 0]
                slots[id_.slot or ""] = trace.info.tensors[id_]
        in_all: Set[str] = set.intersection(*(set(slots) for slots in found.values()))
        self.inputs: Inputs = {
            number: {slot: slots[slot] for slot in slots if slot in in_all}
            for number, slots in found.items()
            if in_all
        }

    @property
    def is_filtered(self) -> bool:
        """Whether samples of the step may have been left out of the recording."""
        info = self.trace.info
        capture = CaptureFilter.from_json(dict(info.ranks[0].capture))
        return capture.microbatches is not None or is_rank_filtered(info)

    def described(self) -> dict[int, dict[str, Described]]:
        """Shape and dims text of every input."""
        return {
            number: {
                slot: (record.global_shape, record.shards[0].layout.dims)
                for slot, record in slots.items()
            }
            for number, slots in self.inputs.items()
        }

    def dtypes(self, slot: str) -> set[str]:
        """Dtype names of an input."""
        return {slots[slot].shards[0].dtype for slots in self.inputs.values()}

    def values(self, number: int, slot: str) -> np.ndarray | None:
        """An input of a micro-batch; None where the recorded ranks lack a part."""
        return assembled(self.inputs[number][slot], self.trace)

    def is_whole(self) -> bool:
        """Whether the recorded ranks have all of the inputs."""
        return all(
            self.values(number, slot) is not None
            for number, slots in self.inputs.items()
            for slot in slots
        )

    def sizes(self, slot: str, *, dim: int) -> dict[int, int]:
        """The length of a dim of an input, by micro-batch."""
        return {
            number: slots[slot].global_shape[dim]
            for number, slots in self.inputs.items()
        }

    def is_binary(self, slot: str) -> bool:
        """Whether an input is all zeros and ones, which tell no sample from others.

        It is there whole.
        """
        values = (self.values(number, slot) for number in self.numbers)
        return all(np.isin(one, (0, 1)).all() for one in values if one is not None)

    def rows(
        self, dims: Mapping[str, int], dtypes: Mapping[str, set[str]]
    ) -> dict[Place, bytes]:
        """What each sample holds, in order of micro-batches and rows.

        Args:
            dims: The dim that counts samples, of the slots that have one. The inputs
                are there whole.
            dtypes: Of each of these slots, its dtypes in both runs.

        Returns:
            Equal bytes for equal values.
        """
        found: dict[Place, bytes] = {}
        for number in self.numbers:
            of_slots = []
            for slot, dim in dims.items():
                values = self.values(number, slot)
                assert values is not None, "is_whole comes before"
                of_slots.append(np.moveaxis(comparable(values, dtypes[slot]), dim, 0))
            for row, parts in enumerate(zip(*of_slots, strict=True)):
                place = Place(microbatch=number, row=row)
                found[place] = b"".join(part.tobytes() for part in parts)
        return found

    def by_evaluation(self, rows: Mapping[Place, bytes]) -> list[dict[Place, bytes]]:
        """Rows by the call of the optimizer's closure that gave them to the model.

        Every call of a closure runs the same samples, in as many micro-batches. All
        rows stay together where that is not so.
        """
        size, rest = divmod(len(self.numbers), self.num_evaluations)
        if rest or not size:
            return [dict(rows)]
        found: list[dict[Place, bytes]] = [{} for _ in range(self.num_evaluations)]
        position = {number: index for index, number in enumerate(self.numbers)}
        for place, row in rows.items():
            found[position[place.microbatch] // size][place] = row
        held = [Counter(of_one.values()) for of_one in found]
        return found if all(each == held[0] for each in held) else [dict(rows)]


def _before_any_output(ids: Iterable[TensorId]) -> list[TensorId]:
    """The model's inputs, of every micro-batch; what comes later it may have made."""
    computed: set[int | None] = set()
    given = []
    for id_ in ids:
        if id_.kind is Kind.OUTPUT:
            computed.add(id_.microbatch)
        elif is_model_input(id_) and id_.microbatch not in computed:
            given.append(id_)
    return given


def step_inputs(side: Side, trace: TraceSource) -> dict[int, StepInputs]:
    """The inputs of a run's model, by step."""
    ids: dict[int, list[TensorId]] = {}
    evaluations: dict[int, int] = {}
    for id_ in trace.info.tensors:
        if id_.kind is Kind.MAIN_GRAD:
            evaluations[id_.step] = max(evaluations.get(id_.step, 1), id_.call + 1)
        if id_.kind in PER_MICROBATCH and id_.microbatch is not None:
            ids.setdefault(id_.step, []).append(id_)
    return {
        step: StepInputs(side, trace, of_step, num_evaluations=evaluations.get(step, 1))
        for step, of_step in ids.items()
    }


def comparable(values: np.ndarray, dtypes: Set[str]) -> np.ndarray:
    """Values of which equal ones have equal bytes, also where their dtypes differ.

    Args:
        values: Of one run.
        dtypes: Dtype names in both runs: what one of them rounded, is rounded.
    """
    epsilons = {name: dtype_named(name).epsilon for name in sorted(dtypes)}
    if all(epsilon is None for epsilon in epsilons.values()):
        return values.astype(np.uint64 if values.dtype.kind == "u" else np.int64)
    coarsest = max(epsilons, key=lambda name: epsilons[name] or 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(dtype_named(coarsest).numpy)
    return rounded.astype(np.float64) + 0.0  # -0 is 0
