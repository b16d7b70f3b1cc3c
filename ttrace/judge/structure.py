"""Modules that one run has and the other lacks, where both compute the same.

A refactoring (a fused kernel in place of a few modules) leaves modules without
parameters in one run only. Where the module around them was compared, and agrees in
what goes in and what comes out, nothing of the computation is missing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ttrace.ir.kinds import ACTIVATIONS, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace import TraceInfo
from ttrace.judge.verdict import Status, TensorVerdict

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A number that is a whole part of a path: the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureDifference:
    """Modules of one form that only one run has, and that change nothing.

    Attributes:
        modules: Their paths as a pattern, ``*`` for the number of a layer.
        present: The run that has them: ``reference`` or ``candidate``.
        around: The modules around them, as a pattern, that agree.
        num_tensors: Tensors of them, in all steps.
    """

    modules: str
    present: str
    around: str
    num_tensors: int


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
    modules = _Modules(verdicts)
    with_parameters = {
        Side.REFERENCE: _with_parameters(reference),
        Side.CANDIDATE: _with_parameters(candidate),
    }
    around: dict[tuple[str, Side], str] = {}
    for module, side in modules.one_sided:
        parent = modules.around(module)
        if module not in with_parameters[side] and modules.agrees(parent):
            around[module, side] = parent
    counts: Counter[tuple[str, Side, str]] = Counter()
    judged = []
    for verdict in verdicts:
        side = verdict.present
        key = None if side is None else (verdict.id.module, side)
        if verdict.status is Status.UNMATCHED and key in around:
            assert key is not None
            pattern, parent = layers_left_out(key[0]), layers_left_out(around[key])
            counts[pattern, key[1], parent] += 1
            verdict = replace(
                verdict,
                status=Status.SKIPPED,
                reason=f"structure differs: {pattern} is in the {side} only; input and "
                f"output of {parent}, around it, agree",
            )
        judged.append(verdict)
    differences = tuple(
        StructureDifference(
            modules=pattern, present=side.value, around=parent, num_tensors=number
        )
        for (pattern, side, parent), number in counts.items()
    )
    return tuple(judged), differences


def layers_left_out(module: str) -> str:
    """``blocks.3.attn`` as ``blocks.*.attn``; a module that is only numbered stays."""
    pattern = _NUMBER.sub("*", module)
    return pattern if pattern.strip("*.") else module


class _Modules:
    """What became of the inputs and outputs of every module, and of their gradients."""

    def __init__(self, verdicts: Iterable[TensorVerdict]):
        self._passed: set[tuple[str, Kind]] = set()
        self._bad: set[str] = set()
        self._compared: set[str] = set()
        unmatched: dict[tuple[str, Side], None] = {}
        for verdict in verdicts:
            module = verdict.id.module
            if verdict.status in (Status.PASSED, Status.FAILED):
                self._compared.add(module)
            if verdict.id.kind not in ACTIVATIONS:
                continue
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
        return module not in self._bad and all(
            (module, kind) in self._passed for kind in (Kind.INPUT, Kind.OUTPUT)
        )


def _with_parameters(info: TraceInfo) -> set[str]:
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
