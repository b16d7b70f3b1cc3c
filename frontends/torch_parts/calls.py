"""Which micro-batch, which call, which pass: the numbering of module calls.

A micro-batch is one forward of the root module. A forward that runs inside a backward
pass is a recomputation (activation checkpointing) and gets the numbers of the calls it
repeats.
"""

import bisect
import collections
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch

from ttrace.ir.kinds import GRADIENTS, Kind
from ttrace.ir.tensor_id import Pass, TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCall:
    """One call of one module.

    Attributes:
        step: Step in which the forward ran.
        microbatch: Global index of the micro-batch.
        path: Canonical path of the module.
        number: Nth call of the module in this micro-batch; a recomputation has the
            number of the call that it repeats.
        pass_: First forward or recomputation.
        is_repeat: The same recomputation ran before (nested checkpoints); its tensors
            have been recorded.
        chunk: Which of the modules of that path: every model chunk of a pipeline
            rank has a root of its own.
    """

    step: int
    microbatch: int
    path: str
    number: int
    chunk: int = 0
    pass_: Pass = Pass.FORWARD
    is_repeat: bool = False

    def tensor_id(self, kind: Kind, slot: str) -> TensorId:
        """Identity of one of the call's tensors.

        Gradients exist once, whichever forward made their graph: they have no pass.
        """
        return TensorId(
            step=self.step,
            microbatch=self.microbatch,
            module=self.path,
            kind=kind,
            slot=slot,
            call=self.number,
            pass_=Pass.FORWARD if kind in GRADIENTS else self.pass_,
        )


_Place = tuple[str, int]
"""A module: its path, and which of the modules of that path it is."""


@dataclass(slots=True, kw_only=True)
class _Region:
    """A stretch of a micro-batch's forward that one checkpoint recomputes.

    Attributes:
        key: Tells regions apart: the graph task and the node that asked for it.
        start: Position of its first call, or None where that could not be found.
        calls: Calls seen so far in this recomputation, by place.
    """

    key: Hashable
    start: int | None
    calls: collections.Counter[_Place] = field(default_factory=collections.Counter)


@dataclass(slots=True, kw_only=True)
class _MicroBatch:
    """The calls of one micro-batch.

    Attributes:
        index: Its global index.
        length: Calls so far.
        positions: Position of every call, by place; ascending. Those that another
            process makes come first, at -1.
        inputs: Number of the last call, by place and input.
        recomputed: Recomputed calls, by place and number.
        differentiated: Calls whose outputs carry a gradient graph, likewise.
        region: The recomputation that is running, or ran last.
    """

    index: int
    length: int = 0
    positions: dict[_Place, list[int]] = field(default_factory=dict)
    inputs: dict[tuple[_Place, Hashable], int] = field(default_factory=dict)
    recomputed: set[tuple[_Place, int]] = field(default_factory=set)
    differentiated: set[tuple[_Place, int]] = field(default_factory=set)
    region: _Region | None = None


def is_recomputing() -> bool:
    """Whether a forward that runs now is a recomputation for a backward pass."""
    return torch._C._current_graph_task_id() != -1


class CallCounter:
    """Numbers the module calls of one process, step by step.

    Backward passes are told apart by hooks, which know the forward they belong to
    (``enter_backward``), never by counting: pipeline schedules interleave them.

    Args:
        global_microbatch: Global index of this process's nth micro-batch of a step.

    Attributes:
        step: The running step.
    """

    def __init__(self, global_microbatch: Callable[[int], int]):
        self._global_microbatch = global_microbatch
        self.step = 0
        self._is_told = False
        self._clear()

    def next_step(self) -> None:
        """Starts the next step, with micro-batch 0."""
        self.step += 1
        self._clear()

    @property
    def microbatch(self) -> int:
        """Global index of the micro-batch whose forward began last (0 before any)."""
        return self._current.index

    @property
    def backward_microbatch(self) -> int:
        """Global index of the micro-batch whose backward runs or ran last."""
        return self._backward.index

    @property
    def is_scheduled(self) -> bool:
        """Whether a schedule says which micro-batch runs."""
        return self._is_told

    @property
    def has_run(self) -> bool:
        """Whether a root module has run forward in the running step."""
        return bool(self._roots)

    def begin_microbatch(self, root: Hashable) -> None:
        """A root module is about to run forward, not nested in itself.

        Args:
            root: Which one; several (model chunks of a pipeline rank) count apart.
        """
        if self._is_told:
            return
        index = self._global_microbatch(self._roots[root])
        self._roots[root] += 1
        self._current = self._backward = self._batch(index)

    def enter_microbatch(self, local: int) -> None:
        """A schedule says which micro-batch of this process runs forward from now on.

        Root modules begin none then.
        """
        self._is_told = True
        self._roots[None] += 1
        index = self._global_microbatch(local)
        self._current = self._backward = self._batch(index)

    def enter_backward_of(self, local: int) -> None:
        """A schedule says which micro-batch of this process runs backward now."""
        self._backward = self._batch(self._global_microbatch(local))

    def enter_backward(self, call: ModuleCall) -> None:
        """A gradient arrived at a tensor of this call's forward."""
        if call.step == self.step:
            self._backward = self._batch(call.microbatch)

    def begin_call(
        self,
        path: str,
        input_key: Hashable,
        *,
        chunk: int = 0,
        num_earlier: int = 0,
    ) -> ModuleCall:
        """A module is about to run forward.

        Args:
            path: Its canonical path.
            input_key: Recognizes the same input again in the recomputation; None
                where there is nothing to recognize.
            chunk: Which of this process's modules of that path; they count apart.
            num_earlier: Calls of the module in a micro-batch that another process
                makes, before the first one here.
        """
        place = (path, chunk)
        if is_recomputing():
            return self._begin_recomputed(place, input_key, num_earlier)
        batch = self._current
        positions = batch.positions.setdefault(place, [-1] * num_earlier)
        positions.append(batch.length)
        batch.length += 1
        number = len(positions) - 1
        batch.inputs[place, input_key] = number
        return ModuleCall(
            step=self.step,
            microbatch=batch.index,
            path=path,
            number=number,
            chunk=chunk,
        )

    def claim_gradients(self, call: ModuleCall) -> bool:
        """Whether the caller is the first to observe the gradients of a call.

        With reentrant checkpoints the recomputed forward has the gradient graph; with
        others the first forward has it, and that of the recomputation is thrown away.
        """
        claimed = self._batch(call.microbatch).differentiated
        key = ((call.path, call.chunk), call.number)
        is_first = key not in claimed
        claimed.add(key)
        return is_first

    def microbatches(self) -> list[int]:
        """Global indices of the step's micro-batches so far; the first one always."""
        return list(self._batches)

    def differentiated_microbatches(self) -> list[int]:
        """Global indices of the step's micro-batches that made a gradient graph."""
        return [index for index, batch in self._batches.items() if batch.differentiated]

    def _clear(self) -> None:
        self._roots: collections.Counter[Hashable] = collections.Counter()
        self._batches: dict[int, _MicroBatch] = {}
        self._current = self._backward = self._batch(self._global_microbatch(0))

    def _batch(self, index: int) -> _MicroBatch:
        return self._batches.setdefault(index, _MicroBatch(index=index))

    def _begin_recomputed(
        self, place: _Place, input_key: Hashable, num_earlier: int
    ) -> ModuleCall:
        batch = self._backward
        number = self._recomputed_number(batch, place, input_key, num_earlier)
        is_repeat = (place, number) in batch.recomputed
        batch.recomputed.add((place, number))
        batch.inputs[place, input_key] = number
        path, chunk = place
        return ModuleCall(
            step=self.step,
            microbatch=batch.index,
            path=path,
            number=number,
            chunk=chunk,
            pass_=Pass.RECOMPUTE,
            is_repeat=is_repeat,
        )

    def _recomputed_number(
        self,
        batch: _MicroBatch,
        place: _Place,
        input_key: Hashable,
        num_earlier: int,
    ) -> int:
        positions = batch.positions.get(place, [])
        region = batch.region
        key = _region_key()
        if region is None or region.key != key:
            # Backward runs through the regions in reverse, each of them forwards. The
            # first call of a region has the input that the checkpoint kept.
            start = None
            if input_key is not None and (place, input_key) in batch.inputs:
                number = batch.inputs[place, input_key]
                start = positions[number] if number < len(positions) else None
            region = batch.region = _Region(key=key, start=start)
        nth = region.calls[place]
        region.calls[place] += 1
        if region.start is not None:
            return bisect.bisect_left(positions, region.start) + nth
        if len(positions) == num_earlier + 1:
            return num_earlier
        return num_earlier + sum(seen == place for seen, _ in batch.recomputed)


def _region_key() -> Hashable:
    node = torch._C._current_autograd_node()
    return (
        torch._C._current_graph_task_id(),
        None if node is None else node._sequence_nr(),
    )
