"""What to say where nothing but unmatched tensors stands against a pass."""

from collections.abc import Collection, Iterable, Sequence

from ttrace.ir.side import Side
from ttrace.judge.verdicts.structure import layers_left_out
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MAX_PATTERNS = 6
"""Patterns that the summary suggests; the report has all tensors."""


def one_sided_sentence(verdicts: Sequence[TensorVerdict]) -> str:
    """``589 compared tensors agree; 12 exist in the reference only (...)``, ...

    With the patterns that allow them. Only for verdicts none of which is failed.
    """
    unmatched = [v for v in verdicts if v.status is Status.UNMATCHED]
    num_passed = sum(verdict.status is Status.PASSED for verdict in verdicts)
    parts = [f"{num_passed} compared tensors agree"]
    compared = _compared_modules(verdicts)
    for side in Side:
        there = [v for v in unmatched if v.present is side and not v.beyond]
        if there:
            exist = "exist" if len(there) > 1 else "exists"
            names = _few(_outermost(there, compared))
            parts.append(f"{len(there)} {exist} in the {side} only ({names})")
    for side in Side:
        beyond = [v.beyond for v in unmatched if v.present is side and v.beyond]
        if beyond:
            exist = "exist" if len(beyond) > 1 else "exists"
            other = Side.CANDIDATE if side is Side.REFERENCE else Side.REFERENCE
            parts.append(
                f"{len(beyond)} {exist} in the {side} only, as the {other} has no "
                f"{_few(dict.fromkeys(beyond))}"
            )
    in_part = sum(verdict.present is None for verdict in unmatched)
    if in_part:
        parts.append(f"{in_part} are not whole in one of the runs")
    sentence = "; ".join(parts)
    patterns = allow_patterns(verdicts)
    if patterns:
        options = [f"--allow '{pattern}'" for pattern in patterns[:_MAX_PATTERNS]]
        more = len(patterns) - len(options)
        sentence += f". If that is intended: {' '.join(options)}"
        if more:
            sentence += f" and {more} more patterns, for what the report lists"
    return sentence


def allow_patterns(verdicts: Sequence[TensorVerdict]) -> list[str]:
    """Patterns for ``--allow`` that cover what only one run has.

    A module that the other run has too is not allowed as a whole. Nothing is proposed
    for steps, and micro-batches, of which it has nothing.
    """
    compared = _compared_modules(verdicts)
    patterns: dict[str, None] = {}
    for verdict in verdicts:
        if verdict.status is not Status.UNMATCHED or verdict.present is None:
            continue
        if verdict.beyond:
            continue
        id_ = verdict.id
        what = "*" if id_.module not in compared else f"{id_.kind}*"
        patterns[f"*/{layers_left_out(id_.module)}/{what}"] = None
    return list(patterns)


def _compared_modules(verdicts: Iterable[TensorVerdict]) -> set[str]:
    return {
        verdict.id.module
        for verdict in verdicts
        if verdict.status in (Status.PASSED, Status.FAILED)
    }


def _outermost(there: Iterable[TensorVerdict], compared: Collection[str]) -> list[str]:
    """Modules of tensors; for those within one that only this run has, that one.

    Args:
        there: Tensors that one run has.
        compared: Modules that both runs have.
    """
    modules = dict.fromkeys(verdict.id.module for verdict in there)
    own = {module for module in modules if module not in compared}
    inside: dict[str, set[str]] = {}
    for module in modules:
        outer = module
        for prefix in _around(module):
            outer = prefix if prefix in own and module in own else outer
        found = inside.setdefault(layers_left_out(outer), set())
        if outer != module:
            found.add(layers_left_out(module))
    return [
        f"{name} and {len(of_one)} module{'s' * (len(of_one) > 1)} inside"
        if of_one
        else name
        for name, of_one in inside.items()
    ]


def _around(module: str) -> Iterable[str]:
    """``a.b``, then ``a``, of ``a.b.c``."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MAX_PATTERNS
    return ", ".join(names[:_MAX_PATTERNS]) + (f" and {more} more" if more > 0 else "")
