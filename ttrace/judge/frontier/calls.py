"""The calls of modules in a micro-batch, one within another, with their tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.judge.verdicts.verdict import TensorVerdict

_FORWARD = frozenset({Kind.INPUT, Kind.OUTPUT})
_GRADIENT_OF = {Kind.GRAD_OUTPUT: Kind.OUTPUT, Kind.GRAD_INPUT: Kind.INPUT}


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One call of a module, by one method of it.

    Attributes:
        module: Its path.
        number: Which call of the module it is. Methods count apart, so that a tied
            embedding has two of one number: where it embeds, and where it attends.
        children: Calls within it, in the order in which they begin.
        tensors: Its tensors by kind, each kind in order of capture.
        parent: The call that it is within; None for that of the model itself.
    """

    module: str
    number: int = 0
    children: list["Call"] = field(default_factory=list)
    tensors: dict[Kind, list[TensorVerdict]] = field(default_factory=dict)
    parent: "Call | None" = None

    def of(self, kind: Kind) -> Sequence[TensorVerdict]:
        """Its tensors of a kind."""
        return self.tensors.get(kind, ())

    @property
    def last_first(self) -> list["Call"]:
        """Those within it as a backward comes to them.

        Those of which no forward was recorded, whenever that was, come at the end.
        """
        begun = [call for call in self.children if call.has_forward]
        others = [call for call in self.children if not call.has_forward]
        return [*reversed(begun), *others]

    @property
    def has_forward(self) -> bool:
        """Whether any input or output of it was recorded, or of one within it."""
        return not _FORWARD.isdisjoint(self.tensors) or any(
            call.has_forward for call in self.children
        )


def calls_of(verdicts: Iterable[TensorVerdict]) -> Call:
    """The model's call, with all others within.

    Which one is within which follows from the paths of modules and the order of
    capture: the nearest module around that was recorded, in the call that began last.
    What a module is given, or returns, after it has returned is another call of it, by
    another method. Gradients go to the call whose forward was recorded; those of a
    module of which nothing else was are a call of their own.

    Args:
        verdicts: On what one micro-batch and pass made, in order of capture.
    """
    verdicts = list(verdicts)
    root = Call(module=ROOT_MODULE)
    calls: dict[tuple[str, int], Call] = {(ROOT_MODULE, 0): root}
    owners: dict[TensorId, Call] = {}
    last: dict[str, Call] = {ROOT_MODULE: root}
    in_forward = [v for v in verdicts if v.id.kind in _FORWARD]
    others = [v for v in verdicts if v.id.kind not in _FORWARD]
    modules = {v.id.module for v in verdicts}
    around = {module: _nearest(module, modules) for module in modules}
    before = root
    for index, verdict in enumerate((*in_forward, *others)):
        id_ = verdict.id
        number = 0 if id_.module == ROOT_MODULE else id_.call
        is_forward = index < len(in_forward)
        call = owners.get(_forward_id(id_)) or calls.get((id_.module, number))
        if call is None or (is_forward and _is_over(call, id_.kind, before)):
            parent = last.get(around[id_.module], root)
            if is_forward:
                parent = _unreturned(parent)
            call = calls[id_.module, number] = Call(
                module=id_.module, number=number, parent=parent
            )
            parent.children.append(call)
        if is_forward:
            before = owners[id_] = call
        last[id_.module] = call
        call.tensors.setdefault(id_.kind, []).append(verdict)
    return root


def _is_over(call: Call, kind: Kind, before: Call) -> bool:
    """Whether a tensor that comes to a call now is of a later one, by another method.

    Args:
        call: The last one of that number.
        kind: Of the tensor, an input or an output.
        before: The call that the tensor captured before is of.
    """
    has_returned = bool(call.of(Kind.OUTPUT)) and call.parent is not None
    return has_returned and (kind is Kind.INPUT or before is not call)


def _forward_id(id_: TensorId) -> TensorId:
    """What a gradient is the gradient of; another tensor is itself."""
    kind = _GRADIENT_OF.get(id_.kind)
    return id_ if kind is None else replace(id_, kind=kind)


def _unreturned(call: Call) -> Call:
    """A call that has not returned yet: of one whose inputs were not recorded, only
    the return is seen."""
    while call.parent is not None and call.of(Kind.OUTPUT):
        call = call.parent
    return call


def _nearest(module: str, modules: set[str]) -> str:
    """The innermost one of some modules that a module lies in, or the model."""
    while "." in module:
        module = module.rpartition(".")[0]
        if module in modules:
            return module
    return ROOT_MODULE


def recomputed(verdicts: Sequence[TensorVerdict]) -> tuple[list[TensorVerdict], ...]:
    """Those of the first forward and of the backward, and those recomputed."""
    first = [v for v in verdicts if v.id.pass_ is not Pass.RECOMPUTE]
    again = [v for v in verdicts if v.id.pass_ is Pass.RECOMPUTE]
    return first, again
