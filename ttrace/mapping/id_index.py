"""Finds the tensors that a pattern may match without trying all."""

from collections.abc import Iterable, Iterator

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.mapping.names import NamePattern


class IdIndex:
    """The ids of one run, by module and slot.

    An optimizer's state is found by the slot of its parameter, too. A pattern with
    placeholders in the module has only the slot to be looked up by, and one in the slot
    nothing: that is tried on all ids.

    Args:
        ids: In the order in which they are given back.
    """

    def __init__(self, ids: Iterable[TensorId]):
        self._all = tuple(ids)
        self._by_name: dict[tuple[str, str | None], list[TensorId]] = {}
        self._by_slot: dict[str | None, list[TensorId]] = {}
        for tensor_id in self._all:
            for slot in _slots(tensor_id):
                self._by_slot.setdefault(slot, []).append(tensor_id)
                name = (tensor_id.module, slot)
                self._by_name.setdefault(name, []).append(tensor_id)

    def __iter__(self) -> Iterator[TensorId]:
        return iter(self._all)

    def that_may_match(self, pattern: NamePattern) -> Iterable[TensorId]:
        """Ids among which are all that a pattern matches, in order."""
        if "{" in (pattern.slot or ""):
            return self._all
        if "{" in pattern.module:
            return self._by_slot.get(pattern.slot, ())
        return self._by_name.get((pattern.module, pattern.slot), ())


def _slots(tensor_id: TensorId) -> Iterator[str | None]:
    """The slot, and of an optimizer's state those that may be of its parameter."""
    yield tensor_id.slot
    if tensor_id.kind is Kind.OPTIMIZER_STATE and tensor_id.slot is not None:
        name = tensor_id.slot
        while "." in name:
            name = name.rpartition(".")[0]
            yield name
