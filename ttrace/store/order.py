"""One order of capture for a trace, out of the orders of its ranks."""

from collections.abc import Iterable

from ttrace.ir.tensor_id import TensorId


def merge_orders(orders: Iterable[Iterable[TensorId]]) -> list[TensorId]:
    """Merges the orders in which ranks captured their tensors.

    Steps follow each other. Within a step the first rank's order stands; what a
    later rank adds comes right behind the tensor that it follows on that rank, or,
    where it follows none that is known, before the first known one of that rank
    (a pipeline stage before the gradient norm that all stages share), or else at
    the end of the step.

    Args:
        orders: The ids of each rank, lowest rank first; each id once per rank.

    Returns:
        Every id once. Linear in the number of ids of all ranks.
    """
    distinct = _distinct(orders)
    if len(distinct) == 1:
        return sorted(distinct[0], key=lambda id_: id_.step)
    # A ring per step, doubly linked; the step's number is the link between its ends.
    after: dict[TensorId | int, TensorId | int] = {}
    before: dict[TensorId | int, TensorId | int] = {}
    for order in distinct:
        steps: dict[int, list[TensorId]] = {}
        for id_ in order:
            steps.setdefault(id_.step, []).append(id_)
        for step, ids in steps.items():
            if step not in after:
                after[step] = before[step] = step
            place = before[next((id_ for id_ in ids if id_ in after), step)]
            for id_ in ids:
                if id_ not in after:
                    following = after[place]
                    after[place], after[id_] = id_, following
                    before[following], before[id_] = id_, place
                place = id_
    merged = []
    for step in sorted(node for node in after if isinstance(node, int)):
        node = after[step]
        while isinstance(node, TensorId):
            merged.append(node)
            node = after[node]
    return merged


def _distinct(orders: Iterable[Iterable[TensorId]]) -> list[list[TensorId]]:
    """The orders without those that are like an earlier one, and so add nothing.

    Most ranks of a run are like the one before, or like the first of their stage.
    """
    by_ends: dict[object, list[list[TensorId]]] = {}
    distinct = []
    for order in map(list, orders):
        ends = (len(order), *order[:1], *order[-1:])
        alike = by_ends.setdefault(ends, [])
        if order not in alike:
            alike.append(order)
            distinct.append(order)
    return distinct
