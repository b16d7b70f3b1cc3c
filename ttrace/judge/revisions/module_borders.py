"""Modules that end elsewhere in the two runs, where both compute the same.

A port scales behind its embedding what the reference scales inside of it; a bias, an
activation or a cap of the logits moves likewise. Where a map pairs the outputs of two
such modules without proof, they are unlike, and nothing is wrong: the output of one run
goes on as it is, to a module whose input agrees, and so the other run has it, too.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import failed_by_values
from ttrace.judge.reading.values import values_of
from ttrace.judge.verdicts.structure import (
    BOTH_SIDES,
    StructureDifference,
    layers_left_out,
)
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_FORWARD = (Kind.INPUT, Kind.OUTPUT)

_MULTIPLE = 1e-5
"""What a multiple may be off by, relative."""

_OF_PARAMETERS = (Kind.PARAM_GRAD, Kind.MAIN_GRAD)


def find_border_differences(
    verdicts: Sequence[TensorVerdict],
    unverified: Collection[TensorId],
    reference: TraceSource,
    candidate: TraceSource,
) -> tuple[tuple[TensorVerdict, ...], tuple[StructureDifference, ...]]:
    """Skips outputs of unverified pairs that are unlike while what follows agrees.

    With their gradients, where those of the module's parameters agree.

    Args:
        verdicts: One per tensor, in the order of the dataflow.
        unverified: What a map brings together without proof.
        reference: The trusted run; only what failed is read, and what is as large.
        candidate: The run under test, under the reference's names.

    Returns:
        The verdicts, those on such tensors turned from failed to skipped, and what they
        are.
    """
    failed = [v for v in verdicts if v.id in unverified and _is_unlike(v)]
    if not failed:
        return tuple(verdicts), ()
    flow = _Flow(verdicts, {v.id for v in failed}, (reference, candidate))
    found: dict[TensorId, str] = {}
    for verdict in failed:
        if verdict.id.kind is Kind.OUTPUT:
            behind = flow.agreeing_behind(verdict.id)
            if behind is not None:
                found[verdict.id] = behind
    for verdict in failed:
        output = replace(verdict.id, kind=Kind.OUTPUT)
        if (
            verdict.id.kind is Kind.GRAD_OUTPUT
            and output in found
            and flow.parameters_agree(verdict.id)
        ):
            found[verdict.id] = found[output]
    counts: Counter[tuple[str, str]] = Counter()
    judged = []
    for verdict in verdicts:
        if verdict.id in found:
            behind = found[verdict.id]
            id_ = verdict.id
            pattern = layers_left_out(id_.module)
            name = f"{pattern}/{Kind.OUTPUT}"
            name += "" if id_.slot is None else f"/{id_.slot}"
            is_of_layers = pattern != id_.module
            counts[name, layers_left_out(behind) if is_of_layers else behind] += 1
            verdict = _skipped(verdict, behind)
        judged.append(verdict)
    return tuple(judged), tuple(
        StructureDifference(
            modules=name, present=BOTH_SIDES, around=behind, num_tensors=number
        )
        for (name, behind), number in counts.items()
    )


def _is_unlike(verdict: TensorVerdict) -> bool:
    return (
        failed_by_values(verdict)
        and verdict.id.kind in (Kind.OUTPUT, Kind.GRAD_OUTPUT)
        and verdict.result is not None
    )


def _skipped(verdict: TensorVerdict, behind: str) -> TensorVerdict:
    where = "in all of the model" if behind == ROOT_MODULE else f"at {behind}"
    factor = _factor(verdict)
    values, what = "its values differ", "something"
    if factor is not None:
        values, what = f"it is {factor:.4g} times the reference's", "a factor"
    reason = (
        f"structure differs: {values}, and what follows agrees, {where}: {what} that "
        "one run has inside of the module, and the other behind it"
    )
    return replace(
        verdict, status=Status.SKIPPED, reason=reason, cause=None, margin=None
    )


def _factor(verdict: TensorVerdict) -> float | None:
    """How many times the reference's the values are; None if that is no number."""
    assert verdict.result is not None
    stats = verdict.result.stats
    cosine = min(1.0, abs(stats.cosine)) if np.isfinite(stats.cosine) else 0.0
    if not stats.reference_norm or 1 - cosine**2 > _MULTIPLE**2:
        return None
    return float(np.copysign(stats.candidate_norm / stats.reference_norm, stats.cosine))


class _Flow:
    """What goes from module to module, and what became of it."""

    def __init__(
        self,
        verdicts: Sequence[TensorVerdict],
        unverified: Collection[TensorId],
        sides: Sequence[TraceSource],
    ):
        self._sides = sides
        self._contents: dict[tuple[int, TensorId], bytes | None] = {}
        self._in_order: dict[tuple[int, int | None], list[TensorVerdict]] = {}
        self._of_modules: dict[tuple[int, str], list[TensorVerdict]] = {}
        for verdict in verdicts:
            id_ = verdict.id
            if verdict.status not in (Status.PASSED, Status.FAILED):
                continue
            if id_.kind in _FORWARD:
                self._in_order.setdefault((id_.step, id_.microbatch), []).append(
                    verdict
                )
            elif id_.kind in _OF_PARAMETERS:
                key = (id_.step, id_.module)
                self._of_modules.setdefault(key, []).append(verdict)
        self._all_else_agrees = _agree_in_gradients(verdicts, unverified)

    def agreeing_behind(self, output: TensorId) -> str | None:
        """A module that is given the output of either run, where both agree.

        Returns:
            Its path, the root's where an output of neither run goes on as it is and
            both agree in all else; None where what follows does not agree.
        """
        readers = [
            verdict
            for side in range(len(self._sides))
            for verdict in self._readers(side, output)
        ]
        if any(verdict.status is Status.FAILED for verdict in readers):
            return None
        for verdict in readers:
            if not verdict.noise_dominated:
                return verdict.id.module
        return ROOT_MODULE if not readers and self._all_else_agrees else None

    def _readers(self, side: int, output: TensorId) -> list[TensorVerdict]:
        """What is compared of other modules, further on, and holds the same in a run.

        None of a module that gives what it is given: others may have that, too.
        """
        content = self._content(side, output)
        if content is None:
            return []
        is_behind, found = False, []
        for verdict in self._in_order.get((output.step, output.microbatch), ()):
            id_ = verdict.id
            if id_ == output:
                is_behind = True
                continue
            is_own = id_.module == output.module
            if is_own and id_.kind is Kind.OUTPUT or not (is_own or is_behind):
                continue
            if self._content(side, id_) != content:
                continue
            if is_own:
                return []
            found.append(verdict)
        return found

    def _content(self, side: int, tensor_id: TensorId) -> bytes | None:
        """Equal bytes for equal values, of any shape; None where they are not read."""
        key = (side, tensor_id)
        if key not in self._contents:
            values = values_of(tensor_id, self._sides[side])
            self._contents[key] = (
                None if values is None else hashlib.blake2b(values.tobytes()).digest()
            )
        return self._contents[key]

    def parameters_agree(self, gradient: TensorId) -> bool:
        """Whether no gradient of a module's own parameters failed in a step."""
        key = (gradient.step, gradient.module)
        return not any(
            verdict.status is Status.FAILED for verdict in self._of_modules.get(key, ())
        )


def _agree_in_gradients(
    verdicts: Iterable[TensorVerdict], unverified: Collection[TensorId]
) -> bool:
    """Whether all else agrees, and that is losses and gradients of parameters, too."""
    passed: set[Kind] = set()
    for verdict in verdicts:
        if verdict.status is Status.PASSED and not verdict.noise_dominated:
            passed.add(verdict.id.kind)
        elif verdict.status in (Status.FAILED, Status.UNMATCHED):
            if verdict.id not in unverified:
                return False
    return Kind.LOSS in passed and not passed.isdisjoint(_OF_PARAMETERS)
