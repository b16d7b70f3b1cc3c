"""Modules with parameters that one run computes with, and the other does not run.

A layer that is never called, or that no stage of a pipeline has. All that follows it is
wrong by consequence, and its gradients are missing for want of a forward.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.left_out import IGNORED, SAME_CONTENT
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, Pass
from ttrace.judge.absences.absent_layers import AbsentLayer
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_FORWARD = frozenset({Kind.INPUT, Kind.OUTPUT})

_GRADIENTS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})

_OF_PARAMETERS = frozenset({Kind.PARAM, Kind.UPDATED_PARAM}) | _GRADIENTS

_COMPARED = frozenset({Status.PASSED, Status.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRun:
    """A module that only one run computes with in a step.

    Attributes:
        module: The outermost one with parameters of which this holds.
        step: The step.
        ran_in: The run that computes with it.
        is_held: The other run has its parameters.
        verdicts: On its inputs and outputs in that step; there is one at least.
    """

    module: str
    step: int
    ran_in: Side
    is_held: bool
    verdicts: tuple[TensorVerdict, ...]

    @property
    def missing_in(self) -> Side:
        """The run that does not."""
        if self.ran_in is Side.REFERENCE:
            return Side.CANDIDATE
        return Side.REFERENCE

    def has(self, module: str) -> bool:
        """Whether it is, or lies within, this one."""
        return module == self.module or module.startswith(f"{self.module}.")


def modules_not_run(
    verdicts: Sequence[TensorVerdict], absent: Sequence[AbsentLayer]
) -> list[NotRun]:
    """Those whose inputs and outputs of a step are all in one run only.

    A run may compute with the parameters of a module without calling it, as fused
    kernels do: that no gradient reaches them in the one run, and one does in the other,
    is asked for. Where one run has no such module at all, it must lie in a layer of
    which that run has nothing, and the other run no module that only that one has: it
    might be the same one under another name.

    Args:
        verdicts: On all tensors.
        absent: Layers that one run lacks.
    """
    found = []
    forward: dict[int, list[TensorVerdict]] = {}
    for verdict in verdicts:
        if verdict.id.kind in _FORWARD and verdict.id.pass_ is Pass.FORWARD:
            forward.setdefault(verdict.id.step, []).append(verdict)
    parameters = [v for v in verdicts if v.id.kind in _OF_PARAMETERS]
    for step, of_step in forward.items():
        outermost = _outermost(of_step)
        if not outermost:
            continue
        of_parameters = _by_module(parameters, outermost)
        of_forward = _by_module(of_step, outermost)
        sides = {verdict.present for verdict in of_step} - {None}
        for module, side in outermost.items():
            not_run = NotRun(
                module=module,
                step=step,
                ran_in=side,
                is_held=_is_held(of_parameters[module]),
                verdicts=tuple(of_forward[module]),
            )
            is_absent = sides == {side} and any(
                layer.present is side and layer.has(module) for layer in absent
            )
            if is_absent or _does_not_reach(not_run, of_parameters[module]):
                found.append(not_run)
    return found


def _outermost(verdicts: Iterable[TensorVerdict]) -> dict[str, Side]:
    """Modules all of whose inputs and outputs only one run has, with that run.

    Those within others are left out; none if no other module was compared.
    """
    present: dict[str, set[Side | None]] = {}
    is_any_compared = False
    for verdict in verdicts:
        module = verdict.id.module
        if module == ROOT_MODULE:
            continue
        is_any_compared = is_any_compared or verdict.status in _COMPARED
        ignored_in = _ignored_in(verdict)
        if ignored_in is not None and SAME_CONTENT in verdict.reason:
            continue  # of whichever module it is
        is_one_sided = verdict.status is Status.UNMATCHED
        for prefix in _prefixes(module):
            present.setdefault(prefix, set()).add(
                verdict.present if is_one_sided else ignored_in
            )
    if not is_any_compared:
        return {}
    one_sided = {
        module: next(iter(sides))
        for module, sides in present.items()
        if len(sides) == 1 and None not in sides
    }
    return {
        module: side
        for module, side in one_sided.items()
        if side is not None
        and not any(prefix in one_sided for prefix in _prefixes(module)[1:])
    }


def _ignored_in(verdict: TensorVerdict) -> Side | None:
    """The run in which a map ignores a tensor, as that run alone has it."""
    if verdict.status is not Status.SKIPPED:
        return None
    return next((s for s in Side if verdict.reason.startswith(f"{s}: {IGNORED}")), None)


def _prefixes(module: str) -> list[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _by_module(
    verdicts: Iterable[TensorVerdict], modules: Collection[str]
) -> dict[str, list[TensorVerdict]]:
    """Verdicts on each of some modules, none of which lies within another one."""
    found: dict[str, list[TensorVerdict]] = {module: [] for module in modules}
    for verdict in verdicts:
        for prefix in _prefixes(verdict.id.module):
            if prefix in found:
                found[prefix].append(verdict)
                break
    return found


def _is_held(of_parameters: Iterable[TensorVerdict]) -> bool:
    """Whether both runs have parameters of it."""
    return any(
        verdict.status in _COMPARED and verdict.id.kind not in _GRADIENTS
        for verdict in of_parameters
    )


def _does_not_reach(found: NotRun, of_parameters: Sequence[TensorVerdict]) -> bool:
    """Whether only one run has gradients of a module's parameters, which both have."""
    if not found.is_held:
        return False
    arrived = [
        _arrived(verdict, found.ran_in)
        for verdict in of_parameters
        if verdict.id.step == found.step and verdict.id.kind in _GRADIENTS
    ]
    return False in arrived and True not in arrived


def _arrived(gradient: TensorVerdict, side: Side) -> bool | None:
    """Whether the run that is not ``side`` has a gradient, or may have it.

    False where only ``side`` has one; None where neither has.
    """
    if gradient.status is Status.UNMATCHED:
        return gradient.present is not side
    if gradient.result is None:
        return True
    stats = gradient.result.stats
    norms = {
        Side.REFERENCE: stats.reference_norm,
        Side.CANDIDATE: stats.candidate_norm,
    }
    has_one = bool(norms.pop(side))
    (other,) = norms.values()
    if other:
        return True
    return False if has_one else None
