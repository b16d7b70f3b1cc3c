"""Joined weights whose content is exact, and of which the model makes something else.

Content tells how a port holds the parts of a fused matrix, not in which order the model
reads them: one after another, or head by head. A port that took them apart in the wrong
order has all the elements, and what its fused module gives agrees with any order that
the weights have. Where the module around then gives something else, the order is open.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.map_proposal.units import Pairing, modules_of
from ttrace.mapping.rules import TensorRule, other_side


def with_open_orders(
    parameters: Sequence[TensorRule], activations: Iterable[Pairing]
) -> tuple[TensorRule, ...]:
    """The same rules, unverified where the order of joined parts is open.

    Args:
        parameters: Rules of parameters.
        activations: What was found of inputs and outputs, module by module.
    """
    agreeing: dict[Kind, dict[Side, set[str]]] = {
        kind: {side: set() for side in Side} for kind in (Kind.INPUT, Kind.OUTPUT)
    }
    unlike: dict[Side, set[str]] = {side: set() for side in Side}
    for pairing in activations:
        modules = {
            Side.REFERENCE: modules_of(pairing.reference),
            Side.CANDIDATE: modules_of(pairing.candidate),
        }
        for side, names in modules.items():
            for kind in agreeing.keys() & set(pairing.kinds):
                if pairing.agrees:
                    agreeing[kind][side].update(names)
                elif kind is Kind.OUTPUT:
                    unlike[side].update(names)
    return tuple(_doubted(rule, agreeing, unlike) for rule in parameters)


def _doubted(
    rule: TensorRule,
    agreeing: dict[Kind, dict[Side, set[str]]],
    unlike: dict[Side, set[str]],
) -> TensorRule:
    found = _orders_of(rule)
    if found is None or not (rule.verified and rule.is_by_content):
        return rule
    side, found_order, other_order = found
    module = modules_of([str(rule.patterns(side)[0])])[0]
    around = module.rpartition(".")[0]
    if not around:
        return rule
    parts = _any_number(module)
    is_read_alike = any(map(parts.fullmatch, agreeing[Kind.OUTPUT][side]))
    wanted = unlike[side] & agreeing[Kind.INPUT][side]
    if not is_read_alike or not any(map(_any_number(around).fullmatch, wanted)):
        return rule
    return replace(
        rule,
        verified=False,
        comment=f"{rule.comment}; but {around} gives something else, and content does "
        f"not tell whether it reads the parts as ({found_order}), as they lie here, or "
        f"as ({other_order}): look at the code that splits them",
    )


def _orders_of(rule: TensorRule) -> tuple[Side, str, str] | None:
    """The side of the whole, the order of axes in the joined dim, and another one.

    None where the joined axis is alone in its dim, or parts have several indices of it.
    """
    if rule.join is None or rule.transform is None or rule.part_sizes is not None:
        return None
    list_side = Side.REFERENCE if len(rule.reference) > 1 else Side.CANDIDATE
    side = other_side(list_side)
    sides = {
        Side.REFERENCE: rule.transform.reference,
        Side.CANDIDATE: rule.transform.candidate,
    }
    dim: tuple[str, ...] = next(
        (dim for dim in sides[side].dims if rule.join in dim), ()
    )
    others = [axis for axis in dim if axis != rule.join]
    if len(others) < 2 and dim[-1:] != (rule.join,):
        return None  # all of a part lies together: nothing tells of heads
    if not others:
        return None
    if dim[:1] == (rule.join,):
        other = [others[0], rule.join, *others[1:]]
    else:
        other = [rule.join, *others]
    return side, " ".join(dim), " ".join(other)


def _any_number(module: str) -> re.Pattern[str]:
    """Matches the modules of a pattern."""
    texts = re.split(r"\{\w+\*?\}", module)
    return re.compile(r"[^/]+?".join(map(re.escape, texts)))
