"""Modules with parameters that one run computes with, and the other does not run.

A layer that is never called, or that no stage of a pipeline has. All that follows it is
wrong by consequence, and its gradients are missing for want of a forward.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, Pass
from ttrace.judge.structure import layers_left_out
from ttrace.judge.verdict import Status, TensorVerdict

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


def modules_not_run(verdicts: Sequence[TensorVerdict]) -> list[NotRun]:
    """Those whose inputs and outputs of a step are all in one run only.

    A run may compute with the parameters of a module without calling it, as fused
    kernels do: that no gradient reaches them in the one run, and one does in the other,
    is asked for. Where one run has no such module at all, another name of the same one
    is excluded: there are modules of its form, and none that only that run has.
    """
    forward: dict[int, list[TensorVerdict]] = {}
    for verdict in verdicts:
        if verdict.id.kind in _FORWARD and verdict.id.pass_ is Pass.FORWARD:
            forward.setdefault(verdict.id.step, []).append(verdict)
    outermost = {step: _outermost(of_step) for step, of_step in forward.items()}
    modules = {module for of_step in outermost.values() for module in of_step}
    if not modules:
        return []
    of_parameters = _within(
        modules, (v for v in verdicts if v.id.kind in _OF_PARAMETERS)
    )
    found = []
    for step, of_step in forward.items():
        activations = _within(outermost[step], of_step)
        for module, side in outermost[step].items():
            own = of_parameters.get(module, [])
            is_held = _is_held(own)
            if is_held:
                is_left_out = _lacks_gradients(own, side, step)
            else:
                is_left_out = (
                    bool(own)
                    and all(verdict.present is side for verdict in own)
                    and _is_one_of_many(module, side, of_step)
                )
            if is_left_out:
                found.append(
                    NotRun(
                        module=module,
                        step=step,
                        ran_in=side,
                        is_held=is_held,
                        verdicts=tuple(activations[module]),
                    )
                )
    return found


def _within(
    modules: Collection[str], verdicts: Iterable[TensorVerdict]
) -> dict[str, list[TensorVerdict]]:
    """The verdicts on what lies in these modules, by module."""
    found: dict[str, list[TensorVerdict]] = {}
    for verdict in verdicts:
        for prefix in _prefixes(verdict.id.module):
            if prefix in modules:
                found.setdefault(prefix, []).append(verdict)
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
        is_one_sided = verdict.status is Status.UNMATCHED
        for prefix in _prefixes(module):
            present.setdefault(prefix, set()).add(
                verdict.present if is_one_sided else None
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


def _prefixes(module: str) -> list[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _is_held(own: Iterable[TensorVerdict]) -> bool:
    """Whether both runs have some of the parameters."""
    return any(
        verdict.status in _COMPARED and verdict.id.kind not in _GRADIENTS
        for verdict in own
    )


def _lacks_gradients(own: Iterable[TensorVerdict], side: Side, step: int) -> bool:
    """Whether ``side`` has gradients of the parameters, and the other run has none."""
    arrived = {
        _arrived(verdict, side)
        for verdict in own
        if verdict.id.step == step and verdict.id.kind in _GRADIENTS
    }
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


def _is_one_of_many(module: str, side: Side, of_step: Sequence[TensorVerdict]) -> bool:
    """Whether modules of its form were compared, and the other run has none alone."""
    if any(verdict.present not in (None, side) for verdict in of_step):
        return False
    form = layers_left_out(module)
    return any(
        form == layers_left_out(prefix)
        for verdict in of_step
        if verdict.status in _COMPARED
        for prefix in _prefixes(verdict.id.module)
        if prefix != module
    )
