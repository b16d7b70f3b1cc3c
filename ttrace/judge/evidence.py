"""What is read of both runs to explain failures of gradients and updates.

A rule of diagnosis says only what was checked; what verdicts do not hold is checked
here, on a few of the tensors that failed. Nothing is judged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.backend import Backend
from ttrace.compare.call_counts import CallCount, Place, differing_calls
from ttrace.compare.collective_results import CollectiveCheck, wrong_collectives
from ttrace.compare.tied import Untied
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.absences import Absences, find_absences
from ttrace.judge.adam_fit import SettingFit, fit_settings
from ttrace.judge.added_bias import AddedBias, find_added_bias
from ttrace.judge.average_fit import AverageFit, fit_averages
from ttrace.judge.call_counts import is_of_call
from ttrace.judge.clip_times import EarlyClipping, find_early_clipping
from ttrace.judge.collective_order import OrderFault, find_order_faults
from ttrace.judge.collectives_inside import (
    CollectivesInside,
    find_collectives_inside,
)
from ttrace.judge.confinement import Confinement, find_confinement
from ttrace.judge.dropout_masks import DropoutMasks, find_dropout_masks
from ttrace.judge.dropout_rates import (
    DropoutDifference,
    dropout_differences,
    rates_inside,
)
from ttrace.judge.embedding_rows import EmbeddingRows, find_embedding_rows
from ttrace.judge.failures import first_failed
from ttrace.judge.first_divergence import FirstDivergence, find_first_divergence
from ttrace.judge.microbatch_factors import (
    MicrobatchFactors,
    find_microbatch_factors,
)
from ttrace.judge.one_microbatch import OneMicrobatch, find_one_microbatch
from ttrace.judge.one_sided_inputs import OneSidedInputs, find_one_sided_inputs
from ttrace.judge.optimizer_settings import OptimizerDifference, optimizer_differences
from ttrace.judge.own_faults import explained
from ttrace.judge.own_gradients import OwnGradients, own_gradients
from ttrace.judge.rank_samples import SharedSamples, find_shared_samples
from ttrace.judge.restarted_state import Restart, find_restart
from ttrace.judge.scaled_submodule import ScaledSubmodule, find_scaled_submodule
from ttrace.judge.state_decay import StateDecay, find_state_decays
from ttrace.judge.still_statistics import StillStatistics, find_still_statistics
from ttrace.judge.tied_parameters import SplitTie, find_split_ties
from ttrace.judge.trace_lines import (
    OF_OPTIMIZERS,
    has_no_optimizer,
    only_one_steps_early,
)
from ttrace.judge.undescribed import Undescribed, find_undescribed
from ttrace.judge.updates import parameter_before
from ttrace.judge.values import values_of
from ttrace.judge.verdict import Cause, Status, TensorVerdict
from ttrace.judge.wiring import Wiring, find_wiring

_CONSTANT = 1e-3
"""Spread of values, over the largest of them, that are all the same."""

_LEAST_EXPLAINED = 0.95
"""Of the norm of a difference, that must be explained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFit:
    """What explains the wrong update of a parameter whose gradient agrees.

    Attributes:
        id: The updated parameter.
        factor: The update is so many times the reference's; None if it is not.
        decay: It is the reference's, less so many times the parameter; None if not.
        num_values: Elements that speak for it: 1 if all change by the same.
        parts: Names of the parts that it is about; empty for the whole parameter.
    """

    id: TensorId
    num_values: int
    factor: float | None = None
    decay: float | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was read, in the first step in which gradients or updates failed.

    Attributes:
        accumulated: Gradients that are the sum of the reference's gradient and of what
            the candidate had in the step before; all that were read, or none.
        accumulated_kind: What it had: its gradients before or after they were clipped.
        updates: What explains updates, or that nothing does, of those that were read.
        adam: Settings of Adam that explain moments and updates, of those that were
            read.
        one_microbatch: The micro-batch whose gradients alone those of a step are; None
            if that is not so, or not known.
        restart: A step in which the optimizer's state starts anew; None if none does.
        confined: Where the error of the first divergence lies; None where it is spread.
        rows: Rows of an embedding that it lies in; None if it is no embedding's.
        bias: The bias that it is a multiple of; None if it is not.
        wiring: What it is given instead, if it is an input; None if that is not known.
        settings: Settings of the optimizers that both runs recorded, and that differ.
        first: The first divergence.
        absences: What one of the runs does not have.
        factors: What micro-batches of the candidate make of the first failed gradient
            of an activation, if they are parts of one of the reference.
        early_clipping: When the runs clip, where one of them does too early.
        split_ties: Parameters that are one in one run and two in the other.
        dropout: Rates of dropout that both runs state, and that differ.
        rates_inside: What the module of the first divergence drops inside of it, alike
            in both runs.
        masks: Zeros of dropout that the first divergence differs by; None if by others.
        own: Gradients that the candidate recorded, compared or not; None where only
            the candidate as it was compared is known.
        steps_apart: One run ended its steps before the updates, so that those of two
            steps were compared.
        calls: Where both runs call a module, and not as often.
        inputs: What the module of the first divergence is given in one run only.
        still: Modules whose running statistics move in one run only.
        submodule: The output inside that the first divergence is off by a multiple of.
        average: How both runs average parameters, where they do otherwise.
        undescribed: Parameters of which the candidate's ranks have parts, and nothing
            says so: all else is told under a wrong assumption.
        shared_samples: Ranks of the candidate that were given those of others.
        state_decays: States of the optimizer that hold a share of their parameter more
            or less.
        misordered: Where ranks of the candidate run other collectives than their group.
        wrong_collectives: Those of the candidate that gave something else than they
            are defined to.
        collectives_inside: What the call that diverges first runs; None for none.
    """

    accumulated: tuple[TensorId, ...] = ()
    accumulated_kind: Kind = Kind.MAIN_GRAD
    updates: tuple[UpdateFit, ...] = ()
    adam: tuple[SettingFit, ...] = ()
    one_microbatch: OneMicrobatch | None = None
    restart: Restart | None = None
    confined: Confinement | None = None
    rows: EmbeddingRows | None = None
    bias: AddedBias | None = None
    wiring: Wiring | None = None
    settings: tuple[OptimizerDifference, ...] = ()
    first: FirstDivergence | None = None
    absences: Absences = Absences()
    factors: MicrobatchFactors | None = None
    early_clipping: EarlyClipping | None = None
    split_ties: tuple[SplitTie, ...] = ()
    dropout: tuple[DropoutDifference, ...] = ()
    rates_inside: tuple[str, ...] = ()
    masks: DropoutMasks | None = None
    own: OwnGradients | None = None
    steps_apart: bool = False
    calls: Mapping[Place, CallCount] = field(default_factory=dict)
    inputs: OneSidedInputs | None = None
    still: tuple[StillStatistics, ...] = ()
    submodule: ScaledSubmodule | None = None
    average: AverageFit | None = None
    undescribed: Undescribed | None = None
    shared_samples: SharedSamples | None = None
    state_decays: tuple[StateDecay, ...] = ()
    misordered: tuple[OrderFault, ...] = ()
    wrong_collectives: tuple[CollectiveCheck, ...] = ()
    collectives_inside: CollectivesInside | None = None

    def is_of_call(self, verdict: TensorVerdict) -> bool:
        """Whether it failed for want of a counterpart of a call."""
        return is_of_call(verdict, self.calls)


def read_evidence(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    own_microbatches: TraceSource | None = None,
    recorded: TraceInfo | None = None,
    untied: Untied | None = None,
) -> Evidence:
    """Reads what may explain the failed gradients and updates.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
        backend: Computes the statistics.
        own_microbatches: The candidate with the micro-batches that it had, where it is
            shown in those of the reference.
        recorded: The candidate in its own micro-batches; None where they are those
            of the reference.
        untied: Parameters that one run ties and the other copies.
    """
    by_id = {verdict.id: verdict for verdict in verdicts}
    own = own_gradients(recorded or candidate.info)
    absences = find_absences(verdicts, own)
    if has_no_optimizer(candidate.info):  # what it would be given was not recorded
        absences = replace(
            absences,
            gradients=tuple(
                v for v in absences.gradients if v.id.kind not in OF_OPTIMIZERS
            ),
        )
    first = find_first_divergence(verdicts, absences)
    diverged = None if first is None else by_id.get(parse_tensor_id(first.id))
    gradients = first_failed(verdicts, lambda id_: id_.kind is Kind.MAIN_GRAD)
    updates = [
        verdict
        for verdict in first_failed(
            verdicts, lambda id_: id_.kind is Kind.UPDATED_PARAM
        )
        if _is_given_the_same(verdict.id, by_id)
    ]
    accumulated = [
        kind
        for kind in (Kind.MAIN_GRAD, Kind.CLIPPED_GRAD)
        if gradients
        and all(_is_accumulated(v.id, kind, reference, candidate) for v in gradients)
    ]
    misordered = explained(find_order_faults, (), (own_microbatches or candidate).info)
    fits = [explained(_fit, None, verdict, reference, candidate) for verdict in updates]
    return Evidence(
        accumulated=tuple(v.id for v in gradients) if accumulated else (),
        accumulated_kind=accumulated[0] if accumulated else Kind.MAIN_GRAD,
        updates=tuple(fit for fit in fits if fit is not None),
        adam=explained(fit_settings, (), verdicts, reference, candidate),
        one_microbatch=explained(
            find_one_microbatch, None, verdicts, own_microbatches or candidate
        ),
        restart=explained(find_restart, None, verdicts, reference, candidate),
        confined=explained(
            find_confinement, None, diverged, reference, candidate, backend
        ),
        rows=explained(find_embedding_rows, None, diverged, reference, candidate),
        bias=explained(find_added_bias, None, diverged, reference, candidate),
        wiring=explained(find_wiring, None, diverged, verdicts, reference, candidate),
        settings=optimizer_differences(
            reference.info.ranks[0], candidate.info.ranks[0]
        ),
        first=first,
        absences=absences,
        factors=explained(
            find_microbatch_factors, None, verdicts, reference, candidate
        ),
        early_clipping=find_early_clipping(reference.info, candidate.info),
        split_ties=()
        if untied is None
        else explained(find_split_ties, (), untied, verdicts, reference, candidate),
        dropout=dropout_differences(reference.info, candidate.info),
        rates_inside=()
        if first is None
        else rates_inside(first.module, reference.info, candidate.info),
        masks=explained(find_dropout_masks, None, diverged, reference, candidate),
        own=own,
        steps_apart=only_one_steps_early(reference.info, candidate.info),
        calls=differing_calls(reference.info, candidate.info),
        inputs=explained(
            find_one_sided_inputs,
            None,
            diverged,
            verdicts,
            reference.info,
            candidate.info,
        ),
        still=explained(find_still_statistics, (), verdicts, reference, candidate),
        submodule=explained(
            find_scaled_submodule, None, diverged, verdicts, reference, candidate
        ),
        average=explained(fit_averages, None, verdicts, reference, candidate),
        undescribed=explained(
            find_undescribed,
            None,
            reference,
            candidate,
            own_microbatches or candidate,
        ),
        shared_samples=explained(
            find_shared_samples, None, verdicts, own_microbatches or candidate
        ),
        state_decays=explained(find_state_decays, (), verdicts, reference, candidate),
        misordered=misordered,
        wrong_collectives=()
        if misordered
        else explained(wrong_collectives, (), own_microbatches or candidate),
        collectives_inside=explained(
            find_collectives_inside,
            None,
            diverged,
            reference,
            own_microbatches or candidate,
        ),
    )


def _is_given_the_same(
    updated: TensorId, by_id: Mapping[TensorId, TensorVerdict]
) -> bool:
    """Whether the gradient of a parameter agrees, and is clipped alike if it is."""
    gradient = by_id.get(replace(updated, kind=Kind.MAIN_GRAD))
    clipped = by_id.get(replace(updated, kind=Kind.CLIPPED_GRAD))
    return (
        gradient is not None
        and gradient.status is Status.PASSED
        and (clipped is None or clipped.status in (Status.PASSED, Status.SKIPPED))
    )


def _is_accumulated(
    gradient: TensorId, kind: Kind, reference: TraceSource, candidate: TraceSource
) -> bool:
    """Whether what the candidate has more is what it had in the step before.

    Its gradients themselves, or what clipping in place had made of them.
    """
    if not gradient.step:
        return False
    before = _values(replace(gradient, step=gradient.step - 1, kind=kind), candidate)
    ours, theirs = _values(gradient, candidate), _values(gradient, reference)
    if before is None or ours is None or theirs is None or not before.any():
        return False
    return _is_explained(ours - theirs, before)


def _fit(
    verdict: TensorVerdict, reference: TraceSource, candidate: TraceSource
) -> UpdateFit | None:
    """What of the usual hyper-parameters explains an update; None if it is not known.

    Of a tensor that was not read. Where it failed by parts of it, of these.
    """
    updated = verdict.id
    ours, theirs = _values(updated, candidate), _values(updated, reference)
    record = parameter_before(updated, reference.info)
    start = None if record is None else _values(record.id, reference)
    if ours is None or theirs is None or start is None:
        return None
    parts = tuple(failed.figures.name for failed in verdict.failed_parts)
    if parts:
        assert verdict.result is not None
        shape = verdict.result.plan.match.reference.global_shape
        is_in = np.zeros(shape, bool)
        for failed in verdict.failed_parts:
            np.moveaxis(is_in, failed.part.dim, 0)[failed.part.indices] = True
        if not is_in.size == ours.size == theirs.size == start.size:
            return None
        ours, theirs, start = (v[is_in.reshape(-1)] for v in (ours, theirs, start))
    difference, update = ours - theirs, theirs - start
    factor, decay = _projection(difference, update), _projection(difference, start)
    fit = UpdateFit(id=updated, num_values=difference.size, parts=parts)
    if factor is not None and _is_explained(difference, factor * update):
        return replace(fit, num_values=_num_values(update), factor=1 + factor)
    if decay is not None and _is_explained(difference, decay * start):
        return replace(fit, decay=-decay)
    return fit


def _num_values(values: np.ndarray) -> int:
    """Elements, of which those of one value count as one: a multiple always fits it."""
    spread = float(np.ptp(values)) if values.size else 0.0
    is_constant = spread <= _CONSTANT * float(np.abs(values).max(initial=0.0))
    return 1 if is_constant else values.size


def _projection(values: np.ndarray, direction: np.ndarray) -> float | None:
    square = float((direction * direction).sum())
    return float((values * direction).sum()) / square if square else None


def _is_explained(difference: np.ndarray, explanation: np.ndarray) -> bool:
    rest = float(np.linalg.norm(difference - explanation))
    return rest <= (1 - _LEAST_EXPLAINED) * float(np.linalg.norm(difference))


def _values(tensor_id: TensorId, trace: TraceSource) -> np.ndarray | None:
    """float64, ``[elements]``, without its scale; None where it is not there whole."""
    values = values_of(tensor_id, trace)
    return None if values is None else values.reshape(-1)


def common_value(values: Sequence[float]) -> float | None:
    """What several figures have in common to three digits; None if nothing."""
    if not values:
        return None
    middle = sorted(values)[len(values) // 2]
    close = [v for v in values if math.isclose(v, middle, rel_tol=1e-2)]
    return middle if len(close) == len(values) else None


def learning_rates(
    verdicts: Mapping[TensorId, TensorVerdict], step: int
) -> tuple[float, float] | None:
    """The first learning rate of a step that differs, of both runs; None if none."""
    for verdict in verdicts.values():
        if verdict.id.kind is Kind.LEARNING_RATE and verdict.id.step == step:
            result = verdict.result
            if result is not None and verdict.cause is Cause.ERROR:
                stats = result.stats
                return stats.max_abs_reference, stats.max_abs_candidate
    return None
