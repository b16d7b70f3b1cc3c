"""What Adam's settings are, as its recorded moments and updates show them.

Where the gradients of two runs agree and what the optimizer makes of them does not, the
moments say with which settings they were made: ``exp_avg = beta1 * exp_avg before +
(1 - beta1) * gradient``. A setting is only named where it explains the values of both
runs, and is a figure that somebody may have written down: a gradient that was clipped
unseen gives others.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.reading.failures import first_failed
from ttrace.judge.verdicts.updates import parameter_before
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_MOST_UNEXPLAINED = 1e-3
"""Of the norm of a moment or an update, that its settings may leave unexplained."""

_MOST_ABOVE_BEST = 3.0
"""An epsilon that leaves so many times what the best one leaves may be the one."""

_MOST_OFF = 1e-5
"""Relative, of what a decay leaves, that float32 makes of a figure written down."""

_LEAST_DIFFERENCE = 1e-3
"""Relative; settings that differ by less are one."""

_EPSILONS = tuple(
    digit * 10.0**exponent for exponent in range(-16, 0) for digit in (1, 2, 5)
)

_FIRST = frozenset({"exp_avg", "mu"})
_SECOND = frozenset({"exp_avg_sq", "nu"})


class Setting(StrEnum):
    """A setting of Adam."""

    BETA1 = "beta1"
    BETA2 = "beta2"
    EPSILON = "epsilon"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFit:
    """A setting that explains what a tensor is in each of two runs.

    Attributes:
        id: A moment, or an updated parameter.
        setting: Which one.
        reference: Its value in the reference, as text: ``0.9``, or ``at most 1e-07``.
        candidate: Its value in the candidate.
    """

    id: TensorId
    setting: Setting
    reference: str
    candidate: str


def fit_settings(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> tuple[SettingFit, ...]:
    """Settings of Adam that differ, of the first step in which its results do.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.

    Returns:
        For each tensor that was read and is explained, one; none where they do not
        agree on the values.
    """
    by_id = {verdict.id: verdict for verdict in verdicts}
    runs = (reference, candidate)
    found: list[SettingFit] = []
    for setting, names in ((Setting.BETA1, _FIRST), (Setting.BETA2, _SECOND)):
        moments = first_failed(
            verdicts,
            lambda id_, names=names: (
                id_.kind is Kind.OPTIMIZER_STATE and _state(id_) in names
            ),
        )
        fits = (_moment_fit(v.id, setting, by_id, runs) for v in moments)
        found += _agreeing(fits)
    if not found:
        updated = first_failed(verdicts, lambda id_: id_.kind is Kind.UPDATED_PARAM)
        found += _epsilon_fits([v.id for v in updated], by_id, runs)
    return tuple(found)


def _agreeing(fits: Iterable[SettingFit | None]) -> list[SettingFit]:
    """The fits, if there are any and all have the same two values."""
    found = list(fits)
    known = [fit for fit in found if fit is not None]
    values = {(fit.reference, fit.candidate) for fit in known}
    return known if len(values) == 1 and 2 * len(known) > len(found) else []


def _state(id_: TensorId) -> str:
    return (id_.slot or "").rpartition(".")[2]


def _gradient(
    id_: TensorId, by_id: Mapping[TensorId, TensorVerdict]
) -> TensorId | None:
    """What the optimizer was given for a parameter, if both runs agree in it."""
    slot = (id_.slot or "").rpartition(".")[0]
    if id_.kind is Kind.UPDATED_PARAM:
        slot = id_.slot
    for kind in (Kind.CLIPPED_GRAD, Kind.MAIN_GRAD):
        verdict = by_id.get(replace(id_, kind=kind, slot=slot))
        if verdict is not None:
            return verdict.id if verdict.status is Status.PASSED else None
    return None


def _moment_fit(
    id_: TensorId,
    setting: Setting,
    by_id: Mapping[TensorId, TensorVerdict],
    runs: tuple[TraceSource, TraceSource],
) -> SettingFit | None:
    gradient = _gradient(id_, by_id)
    if gradient is None:
        return None
    betas = [_beta(id_, setting, gradient, run) for run in runs]
    reference, candidate = betas
    if reference is None or candidate is None or _is_one(reference, candidate):
        return None
    return SettingFit(
        id=id_, setting=setting, reference=f"{reference:g}", candidate=f"{candidate:g}"
    )


def _beta(
    id_: TensorId, setting: Setting, gradient: TensorId, run: TraceSource
) -> float | None:
    """The decay that explains a moment; None where none does."""
    moment, given = _values(id_, run), _values(gradient, run)
    if moment is None or given is None:
        return None
    power = given if setting is Setting.BETA1 else given * given
    before = _values(replace(id_, step=id_.step - 1), run) if id_.step else None
    if before is None:  # the first step of the optimizer, if this explains it
        (share,) = _explained_by(moment, power) or (None,)
        return None if share is None else _written(1 - share)
    found = _explained_by(moment, before, power)
    return None if found is None else _written(found[0])


def _epsilon_fits(
    updated: Sequence[TensorId],
    by_id: Mapping[TensorId, TensorVerdict],
    runs: tuple[TraceSource, TraceSource],
) -> list[SettingFit]:
    """The epsilons that explain the first updates of parameters in both runs.

    Behind the square root, where Adam has it; else inside of that, where one run alone
    has it there.
    """
    read = [
        (id_, [_FirstUpdate.read(id_, gradient, run) for run in runs])
        for id_ in updated
        if (gradient := _gradient(id_, by_id)) is not None
    ]
    found = [
        _OfRun.explaining([(id_, of_runs[side]) for id_, of_runs in read], len(updated))
        for side in range(len(runs))
    ]
    reference, candidate = found
    if reference is None or candidate is None:
        return []
    is_alike = reference.is_inside == candidate.is_inside
    if is_alike and reference.possible & candidate.possible:
        return []
    explained = [id_ for id_, _ in read if id_ in reference.ids & candidate.ids]
    if 2 * len(explained) <= len(updated):
        return []
    texts = [of_run.text for of_run in (reference, candidate)]
    return [
        SettingFit(
            id=id_, setting=Setting.EPSILON, reference=texts[0], candidate=texts[1]
        )
        for id_ in explained
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfRun:
    """The epsilons that explain the first updates of a run.

    Attributes:
        ids: The parameters that they explain.
        possible: The epsilons that explain all of these.
        is_inside: They are added to the square, and its root is taken then.
    """

    ids: frozenset[TensorId]
    possible: frozenset[float]
    is_inside: bool

    @classmethod
    def explaining(
        cls, updates: Sequence[tuple[TensorId, "_FirstUpdate | None"]], num: int
    ) -> "_OfRun | None":
        """Those that explain most of so many updates; None if there are none."""
        for is_inside in (False, True):
            ids = set()
            possible = set(_EPSILONS)
            for id_, first in updates:
                found = set() if first is None else first.epsilons(is_inside)
                if found:
                    ids.add(id_)
                    possible &= found
            if 2 * len(ids) > num and possible:
                return cls(
                    ids=frozenset(ids),
                    possible=frozenset(possible),
                    is_inside=is_inside,
                )
        return None

    @property
    def text(self) -> str:
        """``1e-08``, ``at most 1e-07`` or the like."""
        where = " inside of the square root" if self.is_inside else ""
        return _range(self.possible) + where


def _range(possible: Collection[float]) -> str:
    """``1e-08``, ``at most 1e-07`` or the like."""
    first, last = min(possible), max(possible)
    if first == last:
        return f"{first:g}"
    if first == _EPSILONS[0]:
        return f"at most {last:g}"
    return f"at least {first:g}" if last == _EPSILONS[-1] else f"{first:g} to {last:g}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _FirstUpdate:
    """Of one parameter by Adam, whose moments are then those of the gradient.

    Attributes:
        start: The parameter before, as all of these ``[elements]``.
        update: What it lost.
        gradient: What Adam was given.
        rounding: What storing the parameter makes of the update, relative to its norm.
    """

    start: np.ndarray
    update: np.ndarray
    gradient: np.ndarray
    rounding: float

    @classmethod
    def read(
        cls, id_: TensorId, gradient: TensorId, run: TraceSource
    ) -> "_FirstUpdate | None":
        record = parameter_before(id_, run.info)
        start = None if record is None else _values(record.id, run)
        end, given = _values(id_, run), _values(gradient, run)
        if start is None or end is None or given is None:
            return None
        if not _is_first(id_, gradient, run):
            return None
        update = start - end
        epsilon = dtype_named(run.info.tensors[id_].shards[0].dtype).epsilon or 0.0
        norm = float(np.linalg.norm(update)) or 1.0
        rounding = epsilon * float(np.linalg.norm(end)) / norm
        return cls(start=start, update=update, gradient=given, rounding=rounding)

    def epsilons(self, is_inside: bool) -> set[float]:
        """The epsilons that explain the update alike; none at all."""
        left = {epsilon: self.unexplained(epsilon, is_inside) for epsilon in _EPSILONS}
        best = min(left.values())
        if best > max(_MOST_UNEXPLAINED, self.rounding):
            return set()
        return {e for e, rest in left.items() if rest <= _MOST_ABOVE_BEST * best}

    def unexplained(self, epsilon: float, is_inside: bool) -> float:
        """Share of the update that is neither Adam's nor weight decay."""
        root = np.abs(self.gradient) + epsilon
        if is_inside:
            root = np.sqrt(self.gradient**2 + epsilon)
        direction = self.gradient / root
        return _rest(self.update, direction, self.start)


def _is_first(updated: TensorId, gradient: TensorId, run: TraceSource) -> bool:
    """Whether the moments are those after a first step on this very gradient."""
    betas = [
        _beta(id_, setting, gradient, run)
        for id_ in run.info.tensors
        for setting, names in ((Setting.BETA1, _FIRST), (Setting.BETA2, _SECOND))
        if id_.kind is Kind.OPTIMIZER_STATE
        and (id_.step, id_.module) == (updated.step, updated.module)
        and (id_.slot or "").rpartition(".")[0] == updated.slot
        and _state(id_) in names
        and (not id_.step or replace(id_, step=id_.step - 1) not in run.info.tensors)
    ]
    return len(betas) == 2 and None not in betas


def _explained_by(values: np.ndarray, *basis: np.ndarray) -> tuple[float, ...] | None:
    """How many times which vectors the values are; None if they are not."""
    if not np.linalg.norm(values):
        return None
    factors, *_ = np.linalg.lstsq(np.stack(basis, axis=1), values, rcond=None)
    if _rest(values, *basis) > _MOST_UNEXPLAINED:
        return None
    return tuple(map(float, factors))


def _rest(values: np.ndarray, *basis: np.ndarray) -> float:
    """Share of the norm that no sum of multiples of vectors explains."""
    matrix = np.stack(basis, axis=1)
    factors, *_ = np.linalg.lstsq(matrix, values, rcond=None)
    norm = float(np.linalg.norm(values))
    return float(np.linalg.norm(values - matrix @ factors)) / norm if norm else 0.0


def _written(value: float) -> float | None:
    """A decay as somebody may have written it, of up to four digits; else None."""
    rounded = round(value, 4)
    is_close = math.isclose(1 - value, 1 - rounded, rel_tol=_MOST_OFF)
    return rounded if 0 < rounded < 1 and is_close else None


def _is_one(reference: float, candidate: float) -> bool:
    return math.isclose(reference, candidate, rel_tol=_LEAST_DIFFERENCE)


def _values(tensor_id: TensorId, trace: TraceSource) -> np.ndarray | None:
    """float64, ``[elements]``, without its scale; None where it is not there whole."""
    record = trace.info.tensors.get(tensor_id)
    if record is None:
        return None
    values = assembled(record, trace)
    if values is None or not np.isfinite(values.astype(np.float64)).all():
        return None
    return values.astype(np.float64).reshape(-1) / record.shards[0].scale
