"""Follows failures from step to step: micro-batches, the optimizer, the next step."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ttrace.ir.kinds import KINDS, Kind
from ttrace.judge.frontier.early_updates import early_updates
from ttrace.judge.frontier.flow import GIVEN, NOTHING, UNKNOWN, Failures, Flow
from ttrace.judge.frontier.microbatch import Microbatch, parameter_key
from ttrace.judge.frontier.outside import split_off
from ttrace.judge.verdicts.verdict import TensorVerdict

_Name = tuple[str, str | None]
"""Module and slot of a parameter."""

_BEFORE_UPDATE = frozenset(
    {"exp_avg", "exp_avg_sq", "momentum_buffer", "mu", "nu", "step", "count", "trace"}
)
"""States of optimizers that an update is computed from; others may be computed from the
updated parameters: averages of them, copies in a finer precision."""


def follow(verdicts: Iterable[TensorVerdict], failures: Failures) -> None:
    """Follows failures through all steps.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        failures: What takes them.
    """
    by_step: dict[int, list[TensorVerdict]] = {}
    for verdict in verdicts:
        by_step.setdefault(verdict.id.step, []).append(verdict)
    steps = _Steps(failures)
    for step in sorted(by_step):
        steps.follow(by_step[step])


class _Steps:
    """Follows the failures of one step after the other.

    Args:
        failures: What takes the tensors.
    """

    def __init__(self, failures: Failures):
        self._failures = failures
        self._held: dict[_Name, Flow] = {}
        self._states: dict[_Name, Flow] = {}
        self._parameters: dict[_Name, frozenset[int]] = {}
        self._gradients: dict[_Name, Flow] = {}

    def follow(self, verdicts: Sequence[TensorVerdict]) -> None:
        """Follows those of a step.

        Args:
            verdicts: On all its tensors, in order of capture.
        """
        parts = split_off(verdicts)
        of_step: list[TensorVerdict] = []
        by_microbatch: dict[int | None, list[TensorVerdict]] = {}
        for verdict in parts.inside:
            if KINDS[verdict.id.kind].per_microbatch:
                by_microbatch.setdefault(verdict.id.microbatch, []).append(verdict)
            else:
                of_step.append(verdict)
        for kind in (Kind.PARAM, Kind.BUFFER):
            for verdict in _of_kind(of_step, kind):
                self._held[_name(verdict)] = self._failures.take(
                    verdict, GIVEN, parameter_key(verdict)
                )
        self._parameters |= {
            _name(v): v.candidate_ranks for v in _of_kind(of_step, Kind.PARAM)
        }
        self._gradients = {}
        begun: list[Microbatch] = []
        early = early_updates(parts.inside)
        for number, of_one in by_microbatch.items():
            if number in early:
                now = early[number]
                self._optimize([v for v in of_step if v.id in now], begun)
                of_step = [v for v in of_step if v.id not in now]
            begun.append(Microbatch(of_one, self._failures, self._held_by_module()))
        self._failures.take_beside(parts.behind_backward)
        updated = {
            _name(v)
            for v in parts.inside
            if v.id.kind in (Kind.UPDATED_PARAM, Kind.WRITTEN_PARAM)
        }
        self._optimize(of_step, begun)
        for name in self._parameters.keys() - updated:  # not recorded
            flow = self._gradients.get(name, UNKNOWN)
            self._held[name] += flow + UNKNOWN
        self._buffers(_of_kind(of_step, Kind.UPDATED_BUFFER), begun)
        self._failures.take_beside(parts.behind_update)
        for flow in (*self._held.values(), *self._states.values()):
            self._failures.closed |= flow.failed

    def _held_by_module(self) -> dict[str, Flow]:
        held: dict[str, Flow] = {}
        for (module, _), flow in self._held.items():
            held[module] = held.get(module, NOTHING) + flow
        return held

    def _optimize(
        self, of_step: Sequence[TensorVerdict], begun: list[Microbatch]
    ) -> None:
        by_kind: dict[Kind, list[TensorVerdict]] = {}
        for verdict in of_step:
            by_kind.setdefault(verdict.id.kind, []).append(verdict)
        gradients = self._gradients
        total = NOTHING
        for flow in gradients.values():
            total += flow
        for verdict in by_kind.get(Kind.MAIN_GRAD, ()):
            name = _name(verdict)
            flow = self._take(verdict, _accumulated(name, begun))
            gradients[name] = gradients.get(name, NOTHING) + flow
            total += flow
        norm = NOTHING
        for verdict in by_kind.get(Kind.GRAD_NORM, ()):
            flow = self._take(verdict, total if total is not NOTHING else UNKNOWN)
            # By a norm that passes, unequal, all gradients are clipped otherwise; a
            # second moment has twice its error, and a tolerance of its own.
            norm += replace(flow, failed=flow.failed or flow.reached)
        clipped = by_kind.get(Kind.CLIPPED_GRAD, ())
        for verdict in clipped:
            name = _name(verdict)
            given = gradients.get(name, UNKNOWN) + norm
            flow = self._take(verdict, given)
            # Of what one run alone clips, both know what it was before.
            is_known = flow.is_any_known or not given.is_any_known
            gradients[name] = flow if is_known else given + flow
        # Some optimizers clip by the norm themselves, and only their state shows it.
        inside = NOTHING if clipped else norm
        rates = NOTHING
        for verdict in by_kind.get(Kind.LEARNING_RATE, ()):
            rates += self._take(verdict, GIVEN)
        parameters = {_name(v) for v in by_kind.get(Kind.UPDATED_PARAM, ())}
        parameters |= gradients.keys()
        early, late = [], []
        for verdict in by_kind.get(Kind.OPTIMIZER_STATE, ()):
            owner, state = _owner(verdict, parameters)
            (early if state in _BEFORE_UPDATE else late).append((verdict, owner))
        states: dict[_Name, Flow] = {}
        for verdict, owner in early:
            given = gradients.get(owner, UNKNOWN) + inside
            given += self._states.get(_name(verdict), NOTHING)
            flow = self._states[_name(verdict)] = self._take(verdict, given)
            states[owner] = states.get(owner, NOTHING) + flow
        updated: dict[_Name, Flow] = {}
        for verdict in by_kind.get(Kind.UPDATED_PARAM, ()):
            name = _name(verdict)
            given = gradients.get(name) or _accumulated(name, begun) + UNKNOWN
            given += rates + states.get(name, inside)
            given += self._held.get(name, NOTHING)
            updated[name] = self._take(verdict, given)
            if not self._parameters.get(name, frozenset()) <= verdict.candidate_ranks:
                updated[name] += UNKNOWN  # ranks have copies that were not recorded
        for verdict, owner in late:
            given = gradients.get(owner, UNKNOWN) + updated.get(owner, UNKNOWN) + rates
            given += self._states.get(_name(verdict), NOTHING)
            self._states[_name(verdict)] = self._take(verdict, given)
        self._held |= updated
        # Such as averages of other parameters.
        given = sum(updated.values(), UNKNOWN)
        for verdict in by_kind.get(Kind.WRITTEN_PARAM, ()):
            name = _name(verdict)
            before = self._held.get(name, UNKNOWN)
            self._held[name] = self._take(verdict, before + given)

    def _buffers(
        self, verdicts: Sequence[TensorVerdict], begun: Sequence[Microbatch]
    ) -> None:
        for verdict in verdicts:
            name = _name(verdict)
            given = self._held.get(name, NOTHING)
            seen = [m.of_modules.get(name[0]) for m in begun]
            for flow in seen:
                given += flow or UNKNOWN
            self._held[name] = self._take(verdict, given)

    def _take(self, verdict: TensorVerdict, given: Flow) -> Flow:
        return self._failures.take(verdict, given, parameter_key(verdict))


def _of_kind(verdicts: Iterable[TensorVerdict], kind: Kind) -> list[TensorVerdict]:
    return [verdict for verdict in verdicts if verdict.id.kind is kind]


def _name(verdict: TensorVerdict) -> _Name:
    return verdict.id.module, verdict.id.slot


def _accumulated(name: _Name, begun: Sequence[Microbatch]) -> Flow:
    """What the gradient of a parameter is added up from, as far as it was recorded."""
    found = NOTHING
    for microbatch in begun:
        flow = microbatch.gradients.get(name)
        if flow is None:
            flow = microbatch.of_modules.get(name[0], UNKNOWN)
        found += flow
    return found if begun else UNKNOWN


def _owner(verdict: TensorVerdict, parameters: set[_Name]) -> tuple[_Name, str]:
    """The parameter that a state is of, and the name of the state.

    The slot of ``weight.exp_avg`` begins with that of the parameter.
    """
    module, slot = _name(verdict)
    slot = slot or ""
    end = len(slot)
    while end > 0:
        end = slot.rfind(".", 0, end)
        if end > 0 and (module, slot[:end]) in parameters:
            return (module, slot[:end]), slot[end + 1 :]
    return (module, None), slot
