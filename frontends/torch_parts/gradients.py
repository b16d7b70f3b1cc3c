"""A module's share of its input's gradient, read off the graph without touching it.

An alias of the input would give the share too, but adds a node: with three or more
consumers autograd then sums in another order, and no run would stay bitwise the same.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch._C._autograd import _get_sequence_nr
from torch.autograd.graph import Node

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import LocalTensor, NoLayout
from ttrace.frontends.torch_parts.tensors import (
    local_tensor,
    local_values,
    with_values,
)
from ttrace.ir.layout import whole
from ttrace.recording.faults import reason_of

Place = tuple[Node, int]
"""A node, and which output of it a tensor is."""

Emit = Callable[[str, torch.Tensor | NoLayout], None]
"""Takes a slot and the gradient, or why it is not known; must copy what it keeps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputEdge:
    """Where the gradient of a module's input goes.

    Attributes:
        slot: Of the input.
        node: The node that made the input, or that accumulates into a leaf.
        output: Which output of that node the input is.
        memory: Where its values lie; None where that is not known.
    """

    slot: str
    node: Node
    output: int
    memory: Hashable = None

    @property
    def place(self) -> "Place":
        """What edges of one tensor have in common."""
        return self.node, self.output


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Consumer:
    """An operation inside the module that takes the input.

    Attributes:
        node: Its node.
        operand: Which operand of it the input is.
    """

    node: Node
    operand: int


def sequence_number() -> int:
    """Nodes that this thread makes from now on have this number or a higher one."""
    return _get_sequence_nr()


def input_edges(inputs: Iterable[tuple[str, torch.Tensor]]) -> tuple[InputEdge, ...]:
    """The edges of the inputs that need a gradient; ask before the module runs.

    In-place operations inside the module may rebind its inputs to other nodes.
    """
    if not torch.is_grad_enabled():
        return ()
    return tuple(
        InputEdge(
            slot=slot,
            node=_node_of(tensor),
            output=tensor.output_nr,
            memory=_memory_of(tensor),
        )
        for slot, tensor in inputs
        if tensor.requires_grad
    )


def returned_in_use(
    edges: tuple[InputEdge, ...],
    outputs: Iterable[tuple[str, torch.Tensor]],
    since: int,
) -> set[str]:
    """Outputs that are an input which operations of the module take, too.

    The gradient of such a tensor is that of all that use it, here and elsewhere. A
    wrapper that gives the module a copy of the input changes which these are.

    Args:
        edges: From ``input_edges``.
        outputs: The module's outputs, by slot.
        since: ``sequence_number()`` from before the module ran.

    Returns:
        Slots of these outputs.
    """
    targets = {edge.place for edge in edges}
    of_slot = {
        slot: (tensor.grad_fn, tensor.output_nr)
        for slot, tensor in outputs
        if tensor.grad_fn is not None
    }
    returned = targets.intersection(of_slot.values())
    if not returned:
        return set()
    found = _consumers([node for node, _ in of_slot.values()], returned, since)
    return {slot for slot, place in of_slot.items() if place in found}


def observe_shares(
    edges: tuple[InputEdge, ...],
    outputs: Iterable[torch.Tensor],
    since: int,
    emit: Emit,
) -> list[str]:
    """Reports, in the backward to come, the gradient through each edge.

    What counts is the part of the input's gradient that arrives from operations between
    the input and the module's outputs. Several such parts are added in the order of
    the forward, whatever the order in which backward delivers them. Slots that hold the
    same values in the same memory share one gradient, and all of them get it: the
    wrappers of sharded training and of checkpoints make several tensors of one that is
    given twice.

    Args:
        edges: From ``input_edges``.
        outputs: The module's outputs.
        since: ``sequence_number()`` from before the module ran.
        emit: Called once per slot, in the backward.

    Returns:
        Slots whose tensor the module hands through untouched: no operation inside takes
        it, and there is no share to tell from the gradient of the output.
    """
    outputs = [tensor for tensor in outputs if tensor.requires_grad]
    roots = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    found = _consumers(roots, {edge.place for edge in edges}, since)
    of_slot = {
        edge.slot: _in_order(
            consumer for place in places for consumer in found.get(place, ())
        )
        for edge, places in _with_aliases(edges).items()
    }
    hooks: dict[Node, list[tuple[_Share, int, int]]] = {}
    for edge in edges:
        consumers = of_slot[edge.slot]
        share = _Share(slot=edge.slot, num_parts=len(consumers), emit=emit)
        for position, consumer in enumerate(consumers):
            hooks.setdefault(consumer.node, []).append(
                (share, position, consumer.operand)
            )
    for node, deliveries in hooks.items():
        node.register_hook(_delivering(deliveries))
    if all(of_slot.values()):
        return []
    handed_through = {place_of(tensor) for tensor in outputs}
    return [
        edge.slot
        for edge in edges
        if edge.place in handed_through and not of_slot[edge.slot]
    ]


def place_of(tensor: torch.Tensor) -> Place:
    """The node that made a tensor that needs a gradient, and which output it is."""
    return _node_of(tensor), tensor.output_nr


def _with_aliases(
    edges: tuple[InputEdge, ...],
) -> Mapping[InputEdge, set[Place]]:
    """Each edge, and the places of all edges that have its values."""
    places: dict[Hashable, set[Place]] = {}
    for edge in edges:
        if edge.memory is not None:
            places.setdefault(edge.memory, set()).add(edge.place)
    return {edge: {edge.place} | places.get(edge.memory, set()) for edge in edges}


def _memory_of(tensor: torch.Tensor) -> Hashable:
    """What tensors of the same values in the same memory have in common."""
    try:
        values = local_values(tensor)
        if not values.numel():
            return None
        with unobserved():
            return (
                values.data_ptr(),
                values.dtype,
                values.device,
                tuple(values.shape),
                values.stride(),
            )
    except Exception:  # tensors without memory of their own
        return None


def _in_order(consumers: Iterable[_Consumer]) -> list[_Consumer]:
    return sorted(consumers, key=lambda c: (c.node._sequence_nr(), c.operand))


def _node_of(tensor: torch.Tensor) -> Node:
    node = tensor.grad_fn
    if node is None:  # a leaf: any operation on it leads to its accumulator
        with torch.enable_grad(), torch._C.DisableTorchFunction():
            view = tensor.view_as(tensor).grad_fn
        assert view is not None
        node = view.next_functions[0][0]
        assert node is not None
    return node


def _consumers(
    roots: list[Node], targets: set[Place], since: int
) -> dict[Place, list[_Consumer]]:
    """Walks the nodes made since then; what they lead to is the outside."""
    found: dict[Place, list[_Consumer]] = {}
    seen: set[Node] = set()
    while roots:
        node = roots.pop()
        if node in seen or node._sequence_nr() < since:
            continue
        seen.add(node)
        for operand, (source, output) in enumerate(node.next_functions):
            if source is None:
                continue
            if (source, output) in targets:
                consumer = _Consumer(node=node, operand=operand)
                found.setdefault((source, output), []).append(consumer)
            else:
                roots.append(source)
    return found


def _delivering(
    deliveries: list[tuple["_Share", int, int]],
) -> Callable[[tuple, tuple], None]:
    @guarded("record the gradient of an input")
    def hook(grad_inputs: tuple, grad_outputs: tuple) -> None:
        for share, position, operand in deliveries:
            share.deliver(position, grad_inputs[operand])

    return hook


class _Share:
    """Adds up the parts of one input's gradient."""

    __slots__ = ("_emit", "_num_parts", "_parts", "_reason", "_slot")

    def __init__(self, *, slot: str, num_parts: int, emit: Emit):
        self._slot = slot
        self._num_parts = num_parts
        self._emit = emit
        self._parts: dict[int, torch.Tensor | None] = {}
        self._reason = ""

    def deliver(self, position: int, gradient: torch.Tensor | None) -> None:
        if self._num_parts == 1:
            if gradient is not None:
                self._emit(self._slot, gradient)
            return
        if not self._parts:
            # Not every operation need lie on a path from the loss.
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        try:
            self._parts[position] = None if gradient is None else _copied(gradient)
        except Exception as error:
            self._reason = reason_of(error, "copy a part of it")
            self._parts[position] = None
        if len(self._parts) == self._num_parts:
            self._finish()

    @guarded("add up the gradient of an input")
    def _finish(self) -> None:
        parts = [part for _, part in sorted(self._parts.items()) if part is not None]
        reason, self._reason = self._reason, ""
        self._parts.clear()
        if reason:
            self._emit(self._slot, NoLayout(reason=reason))
        elif parts:
            self._emit(self._slot, _sum_of(parts))


def _copied(gradient: torch.Tensor) -> torch.Tensor:
    values = local_values(gradient)
    with unobserved():
        values = values.detach().clone()
    return with_values(gradient, values)


def _sum_of(parts: list[torch.Tensor]) -> torch.Tensor | NoLayout:
    """Adds parts up, the local values of those that say their layout themselves."""
    answers = [local_tensor(part, lambda shape: whole(shape, "")) for part in parts]
    for answer in answers:
        if not isinstance(answer, LocalTensor):
            reason = getattr(answer, "reason", "it is recorded elsewhere")
            return NoLayout(reason=reason)
    held = [answer for answer in answers if isinstance(answer, LocalTensor)]
    if any((a.layout, a.mesh) != (held[0].layout, held[0].mesh) for a in held):
        return NoLayout(reason="its parts have different layouts and are not added up")
    with unobserved():
        total = held[0].values
        for answer in held[1:]:
            total = total + answer.values
    return with_values(parts[0], total)
