"""Modules and outputs that only one run has, where both compute the same.

A refactoring (a fused kernel in place of a few modules) leaves modules without
parameters in one run only. Where the module around them was compared, and agrees in
what goes in and what comes out, nothing of the computation is missing. Nor is it where
a module returns one thing more (attention weights) and all else of it agrees.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_WHOLE_MODEL = frozenset({Kind.LOSS, Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_OUTPUTS = (Kind.OUTPUT, Kind.GRAD_OUTPUT)

BOTH_SIDES = "both"
"""``present`` of a difference that is in no run alone."""

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A number that is a whole part of a path: the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureDifference:
    """What is of one form and in one run only, and changes nothing.

    Attributes:
        modules: The modules' paths as a pattern, ``*`` for the number of a layer; of an
            output that they return in one run only, with ``/output/<slot>`` behind it.
        present: The run that has them: ``reference`` or ``candidate``; ``both`` where
            the modules end elsewhere (see ``ttrace.judge.revisions.module_borders``),
            or are called another number of times (``...revisions.call_counts``).
        around: The modules around them, as a pattern, that agree; of an output, those
            that return it; where modules end elsewhere, the one behind them.
        num_tensors: Tensors of them, in all steps.
        calls: How often either run calls them, where that is what differs; else empty.
        num_inside: Modules within one of them, which are there with it.
    """

    modules: str
    present: str
    around: str
    num_tensors: int
    calls: str = ""
    num_inside: int = 0


def find_structure_differences(
    verdicts: Sequence[TensorVerdict], reference: TraceInfo, candidate: TraceInfo
) -> tuple[tuple[TensorVerdict, ...], tuple[StructureDifference, ...]]:
    """Skips the tensors of modules that are there in one run, and change nothing.

    Args:
        verdicts: One per tensor.
        reference: The trusted run.
        candidate: The run under test.

    Returns:
        The verdicts, those on such tensors turned from unmatched to skipped, and what
        they are.
    """
    judged, outputs = _without_more_outputs(verdicts)
    modules = Modules(judged)
    with_parameters = {
        Side.REFERENCE: modules_with_parameters(reference),
        Side.CANDIDATE: modules_with_parameters(candidate),
    }
    around: dict[tuple[str, Side], str] = {}
    for module, side in modules.one_sided:
        parent = modules.around(module)
        if module not in with_parameters[side] and modules.agrees(parent):
            around[module, side] = parent
    counts: Counter[tuple[str, Side, str]] = Counter()
    inside: dict[tuple[str, Side, str], dict[str, set[str]]] = {}
    verdicts, judged = judged, []
    for verdict in verdicts:
        side = verdict.present
        key = None if side is None else (verdict.id.module, side)
        if verdict.status is Status.UNMATCHED and key in around:
            assert key is not None
            module = _topmost(key, around)
            pattern, parent = layers_left_out(module), layers_left_out(around[key])
            counts[pattern, key[1], parent] += 1
            within = inside.setdefault((pattern, key[1], parent), {})
            within.setdefault(module, set()).add(key[0])
            verdict = replace(
                verdict,
                status=Status.SKIPPED,
                reason=f"structure differs: {pattern} is in the {side} only; "
                + modules.agreement(parent),
            )
        judged.append(verdict)
    differences = tuple(
        StructureDifference(
            modules=pattern,
            present=side.value,
            around=parent,
            num_tensors=number,
            num_inside=max(
                len(names - {module})
                for module, names in inside[pattern, side, parent].items()
            ),
        )
        for (pattern, side, parent), number in counts.items()
    )
    return tuple(judged), (*outputs, *differences)


def _topmost(key: tuple[str, Side], around: Mapping[tuple[str, Side], str]) -> str:
    """The outermost module around one, or itself, that is in the same run only."""
    found, (module, side) = key[0], key
    while "." in module:
        module = module.rpartition(".")[0]
        if (module, side) in around:
            found = module
    return found


def _without_more_outputs(
    verdicts: Sequence[TensorVerdict],
) -> tuple[list[TensorVerdict], list[StructureDifference]]:
    """Skips outputs that a module returns in one run only, all else of it agreeing.

    With their gradients: where another part of the model made use of such an output,
    the gradients of the module's inputs differ.
    """
    slots = _Slots(verdicts)
    counts: Counter[tuple[str, str, Side]] = Counter()
    judged = []
    for verdict in verdicts:
        if slots.is_one_more(verdict):
            assert verdict.present is not None and verdict.id.slot is not None
            pattern = layers_left_out(verdict.id.module)
            counts[pattern, verdict.id.slot, verdict.present] += 1
            verdict = replace(
                verdict,
                status=Status.SKIPPED,
                reason=f"structure differs: {pattern} returns output "
                f"{verdict.id.slot} in the {verdict.present} only; its inputs and its "
                "other outputs agree",
            )
        judged.append(verdict)
    return judged, [
        StructureDifference(
            modules=f"{pattern}/{Kind.OUTPUT}/{slot}",
            present=side.value,
            around=pattern,
            num_tensors=number,
        )
        for (pattern, slot, side), number in counts.items()
    ]


class _Slots:
    """Which outputs of modules only one run has, and what became of the others."""

    def __init__(self, verdicts: Iterable[TensorVerdict]):
        first: dict[str, str | None] = {}
        both: set[tuple[str, str | None]] = set()
        self._passed: set[tuple[str, Kind]] = set()
        self._sides: dict[tuple[str, str | None], set[Side]] = {}
        one_sided: list[TensorVerdict] = []
        self._bad: set[str] = set()
        for verdict in verdicts:
            id_ = verdict.id
            if id_.kind not in ACTIVATIONS:
                continue
            is_output = id_.kind is Kind.OUTPUT
            if is_output:
                first.setdefault(id_.module, id_.slot)
            if verdict.status is Status.UNMATCHED and verdict.present is not None:
                one_sided.append(verdict)
                if is_output:
                    key = (id_.module, id_.slot)
                    self._sides.setdefault(key, set()).add(verdict.present)
            elif verdict.status in (Status.FAILED, Status.UNMATCHED):
                self._bad.add(id_.module)
            elif verdict.status is Status.PASSED and not verdict.noise_dominated:
                self._passed.add((id_.module, id_.kind))
                if is_output:
                    both.add((id_.module, id_.slot))
        for module, slot in list(self._sides):
            if slot == first[module] or (module, slot) in both:
                del self._sides[module, slot]
        of_modules: dict[str, set[Side]] = {}
        for (module, _), sides in self._sides.items():
            of_modules.setdefault(module, set()).update(sides)
        # One thing more in either run may be the same one under two names.
        self._bad |= {module for module, sides in of_modules.items() if len(sides) > 1}
        self._bad |= {
            verdict.id.module for verdict in one_sided if not self._is_known(verdict)
        }

    def is_one_more(self, verdict: TensorVerdict) -> bool:
        """Whether it is an output, or the gradient of one, that changes nothing."""
        module = verdict.id.module
        return (
            verdict.status is Status.UNMATCHED
            and self._is_known(verdict)
            and module not in self._bad
            and (module, Kind.INPUT) in self._passed
            and (module, Kind.OUTPUT) in self._passed
        )

    def _is_known(self, verdict: TensorVerdict) -> bool:
        """Whether a slot's output is there in this run only."""
        sides = self._sides.get((verdict.id.module, verdict.id.slot))
        return verdict.id.kind in _OUTPUTS and sides == {verdict.present}


def layers_left_out(module: str) -> str:
    """``blocks.3.attn`` as ``blocks.*.attn``; a module that is only numbered stays."""
    pattern = _NUMBER.sub("*", module)
    return pattern if pattern.strip("*.") else module


class Modules:
    """What became of the inputs and outputs of every module, and of their gradients."""

    def __init__(self, verdicts: Iterable[TensorVerdict]):
        self._passed: set[tuple[str, Kind]] = set()
        self._bad: set[str] = set()
        self._compared: set[str] = set()
        self._with_output: set[str] = set()
        self._agreed: set[Kind] = set()
        self._has_failed = False
        unmatched: dict[tuple[str, Side], None] = {}
        for verdict in verdicts:
            module = verdict.id.module
            if verdict.status in (Status.PASSED, Status.FAILED):
                self._compared.add(module)
                self._has_failed |= verdict.status is Status.FAILED
            if verdict.status is Status.PASSED and not verdict.noise_dominated:
                self._agreed.add(verdict.id.kind)
            if verdict.id.kind not in ACTIVATIONS:
                continue
            if verdict.id.kind is Kind.OUTPUT:
                self._with_output.add(module)
            if verdict.status is Status.PASSED and not verdict.noise_dominated:
                self._passed.add((module, verdict.id.kind))
            elif verdict.status in (Status.FAILED, Status.UNMATCHED):
                self._bad.add(module)
                if verdict.present is not None:
                    unmatched[module, verdict.present] = None
        self.one_sided = [
            (module, side)
            for module, side in unmatched
            if module not in self._compared and module != ROOT_MODULE
        ]

    def around(self, module: str) -> str:
        """The nearest module above it that was compared, else the root."""
        while "." in module:
            module = module.rpartition(".")[0]
            if module in self._compared:
                return module
        return ROOT_MODULE

    def agrees(self, module: str) -> bool:
        """Whether what goes in and what comes out was compared, and agrees."""
        if module == ROOT_MODULE and self._agrees_without_output():
            return True
        return module not in self._bad and all(
            (module, kind) in self._passed for kind in (Kind.INPUT, Kind.OUTPUT)
        )

    def _agrees_without_output(self) -> bool:
        """Whether a model that returns nothing but its loss agrees: plain JAX.

        With the gradients of its parameters, and all else that was compared.
        """
        return (
            ROOT_MODULE not in self._with_output
            and ROOT_MODULE not in self._bad
            and not self._has_failed
            and _OF_WHOLE_MODEL <= self._agreed
            and (ROOT_MODULE, Kind.INPUT) in self._passed
        )

    def agreement(self, module: str) -> str:
        """What of a module, around another one, was compared and agrees."""
        if module == ROOT_MODULE and self._agrees_without_output():
            return "inputs, loss and gradients of the model, and all else, agree"
        return f"input and output of {module}, around it, agree"


def modules_with_parameters(info: TraceInfo) -> set[str]:
    """Modules that hold anything but activations, and all modules above them."""
    found: set[str] = set()
    for tensor_id in (*info.tensors, *info.skipped):
        module = tensor_id.module
        if tensor_id.kind in ACTIVATIONS or module in found:
            continue
        found.add(module)
        while "." in module:
            module = module.rpartition(".")[0]
            found.add(module)
    return found
