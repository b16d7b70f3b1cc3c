"""Records the collectives of a run: operands and results, group, place in the program.

Operands are read when a collective is asked for, results when the script has waited for
them: ttrace never waits itself, as that could hide that the script does not. The
reducer of DDP waits in C++, where nobody sees it, when a backward pass ends; right
after that its results are read.
"""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from absl import logging

from ttrace.frontends.torch_parts.calls import ModuleCall
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.collective_kernels import (
    can_observe,
    observed_collectives,
)
from ttrace.frontends.torch_parts.collective_ops import Issued
from ttrace.frontends.torch_parts.description import ModelDescription
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.open_calls import OpenCalls
from ttrace.frontends.torch_parts.program_place import ProgramPlace, place_of_program
from ttrace.frontends.torch_parts.recorder import TensorRecorder
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.collective import CollectivePart, Role
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId

_NEVER_WAITED = (
    "nobody was seen to wait for this collective before the step ended, so that what "
    "it gave is not known: call wait() on what the function with async_op=True "
    "returned, unless a get_future() of it is waited for"
)

_WAITED_UNSEEN = (
    "C++ code of torch asked for this collective and waits for it unseen, so that what "
    "it gave is not known"
)

_PYTHON = "torch.distributed.distributed_c10d"
"""Has the functions that hand a handle to Python."""

_BACKWARD = "backward"
"""Part of the slot of a collective that a backward pass runs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tensor:
    """An operand or a result: its id, what it is a part of, where its values are."""

    id: TensorId
    part: CollectivePart
    tensor: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pending:
    """A collective whose results are still to be read.

    Attributes:
        results: All of them, of this rank.
        recorder: Takes them.
        ends_with_backward: The backward pass waits for it itself, when it ends.
        never_waited: What to say of the results if nobody is seen to wait for it.
        work: Its handle, which must not be freed: its address is its name.
    """

    results: tuple[_Tensor, ...]
    recorder: TensorRecorder
    ends_with_backward: bool
    never_waited: str
    work: Any = None


class CollectiveRecords:
    """Observes the collectives of one session; an observer of it.

    Args:
        description: Names of the modules.
        rank: Global rank of this process.
    """

    def __init__(self, description: ModelDescription, rank: int):
        self._paths = {
            id(module): clean_name(path) for path, module in description.modules()
        }
        self._rank = rank
        self._capture: Capture | None = None
        self._stack = contextlib.ExitStack()
        self._lock = threading.RLock()
        self._numbers: collections.Counter[str] = collections.Counter()
        self._nth: collections.Counter[tuple] = collections.Counter()
        self._groups: dict[str, tuple[int, ...]] = {}
        self._pending: dict[int, _Pending] = {}
        self._by_memory: dict[int, int] = {}

    def start(self, capture: Capture) -> None:
        """Begins to observe, where this torch allows it; else says so once."""
        self._capture = capture
        if not can_observe():
            logging.warning(
                "ttrace: collectives are not recorded: this build of torch (%s) has "
                "no torch.distributed",
                torch.__version__,
            )
            return
        self._observe()

    @guarded("observe collectives")
    def _observe(self) -> None:
        self._stack.enter_context(observed_collectives(self))

    def end_step(self) -> None:
        """Skips results that nobody has waited for; the next step counts anew."""
        with self._lock:
            pending = list(self._pending.values())
            self._pending.clear()
            self._by_memory.clear()
            self._nth.clear()
        for collective in pending:
            for result in collective.results:
                collective.recorder.skip(result.id, collective.never_waited)

    def end(self) -> None:
        """Observes no longer."""
        self._stack.close()
        self._pending.clear()
        self._by_memory.clear()
        self._capture = None

    def before(self, call: Issued) -> _Pending | None:
        """Numbers a collective and records its operands."""
        capture = self._capture
        if capture is None:
            return None
        name = call.group.group_name
        with self._lock:
            # Those that are not recorded count, too: so they do on every rank.
            number = self._numbers[name]
            self._numbers[name] += 1
        recorder = capture.recorder_for(Kind.COLLECTIVE)
        if recorder is None:
            return None
        in_backward = torch._C._current_graph_task_id() != -1
        place = place_of_program(in_backward)
        tensors = self._tensors(call, number, capture, place, in_backward)
        wanted = [one for one in tensors if capture.filter.wants(one.id)]
        for one in wanted:
            if one.part.role is Role.OPERAND:
                recorder.collective(one.id, one.tensor, one.part)
        return _Pending(
            results=tuple(one for one in wanted if one.part.role is Role.RESULT),
            recorder=recorder,
            ends_with_backward=place.is_backward_itself,
            never_waited=_NEVER_WAITED if place.nearest == _PYTHON else _WAITED_UNSEEN,
        )

    def after(self, token: _Pending, work: Any) -> None:
        """Keeps the results in mind until they are there."""
        if not token.results:
            return
        if work is None:
            self._read(token)
            return
        with self._lock:
            # Coalesced collectives have one handle.
            before = self._pending.get(id(work))
            results = (
                token.results if before is None else before.results + token.results
            )
            self._pending[id(work)] = replace(token, results=results, work=work)
            for result in token.results:
                self._by_memory[_memory(result.tensor)] = id(work)
        if token.ends_with_backward:
            # The reducer waits in a callback that it queues with its last bucket: one
            # that is queued when the first of them runs comes behind it.
            _when_backward_ends(
                lambda: _when_backward_ends(lambda: self._reducer_has_waited(work))
            )

    def waited(self, work: Any) -> None:
        """Records the results of a collective that somebody has waited for."""
        self._read_if_pending(id(work))

    def waited_for_tensor(self, tensor: torch.Tensor) -> None:
        """The same, found by one of its results."""
        self._read_if_pending(self._by_memory.get(_memory(tensor)))

    def _read_if_pending(self, key: int | None) -> None:
        with self._lock:
            pending = None if key is None else self._pending.pop(key, None)
            if pending is None:
                return
            for result in pending.results:
                if self._by_memory.get(_memory(result.tensor)) == key:
                    del self._by_memory[_memory(result.tensor)]
        self._read(pending)

    @guarded("read what a backward pass has reduced")
    def _reducer_has_waited(self, work: Any) -> None:
        # What the reducer waits for; the work itself says so a little later.
        if id(work) in self._pending and work.get_future().done():
            self.waited(work)

    def _read(self, pending: _Pending) -> None:
        for result in pending.results:
            pending.recorder.collective(result.id, result.tensor, result.part)

    def _tensors(
        self,
        call: Issued,
        number: int,
        capture: Capture,
        place: ProgramPlace,
        in_backward: bool,
    ) -> Iterable[_Tensor]:
        ranks = self._ranks(call.group)
        root = None if call.root is None else ranks[call.root]
        module, made_by, pass_ = self._module(capture.open_calls, place, in_backward)
        of_backward = in_backward and pass_ is Pass.FORWARD
        microbatch = None if made_by is None else made_by.microbatch
        if of_backward and microbatch is None:
            microbatch = capture.calls.backward_microbatch
        nth_call = 0 if made_by is None or made_by.path != module else made_by.number
        name = f"{call.op.name}.{_BACKWARD}" if of_backward else call.op.name
        with self._lock:
            key = (microbatch, module, nth_call, pass_, name)
            nth = self._nth[key]
            self._nth[key] += 1
        for role, tensors, splits, needs_root in (
            (Role.OPERAND, call.operands, call.operand_splits, call.op.root_gives),
            (Role.RESULT, call.results, call.result_splits, call.op.root_takes),
        ):
            if needs_root and root != self._rank:
                continue
            for position, tensor in enumerate(tensors):
                which = f".{position}" if len(tensors) > 1 else ""
                yield _Tensor(
                    id=TensorId(
                        step=capture.step,
                        microbatch=microbatch,
                        module=module,
                        kind=Kind.COLLECTIVE,
                        slot=f"{name}.{nth}.{role.value}{which}.rank{self._rank}",
                        call=nth_call,
                        pass_=pass_,
                    ),
                    part=CollectivePart(
                        name=call.op.name,
                        number=number,
                        group=ranks,
                        group_name=call.group.group_name,
                        role=role,
                        position=position,
                        reduction=call.reduction,
                        root=root,
                        splits=splits,
                        source=place.source,
                        library=place.library,
                    ),
                    tensor=tensor,
                )

    def _module(
        self, calls: OpenCalls | None, place: ProgramPlace, in_backward: bool
    ) -> tuple[str, ModuleCall | None, Pass]:
        """The module that a collective is of, a call that ran it, the pass."""
        assert calls is not None
        for module in place.modules:
            path = self._paths.get(id(module))
            if path is not None:
                # Hooks before those of ttrace: the call is not known yet.
                call = calls.innermost(path) or calls.innermost()
                return path, call, Pass.RECOMPUTE if in_backward else Pass.FORWARD
        if not in_backward:
            call = calls.innermost()
            return (ROOT_MODULE if call is None else call.path), call, Pass.FORWARD
        node = torch._C._current_autograd_node()
        call = None if node is None else calls.maker_of(node._sequence_nr())
        return (ROOT_MODULE if call is None else call.path), call, Pass.FORWARD

    def _ranks(self, group: Any) -> tuple[int, ...]:
        """Global ranks of a group, looked up once."""
        known = self._groups.get(group.group_name)
        if known is None:
            known = tuple(torch.distributed.get_process_group_ranks(group))
            self._groups[group.group_name] = known
        return known


def _when_backward_ends(run: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(run)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
