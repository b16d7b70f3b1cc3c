"""What explains wrong gradients given to an optimizer, its state and its updates."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.optimizers.accumulated import Accumulated, find_accumulated
from ttrace.judge.optimizers.adam_fit import SettingFit, fit_settings
from ttrace.judge.optimizers.average_fit import AverageFit, fit_averages
from ttrace.judge.optimizers.clip_times import EarlyClipping, find_early_clipping
from ttrace.judge.optimizers.gradient_norm import GradientNorm, find_gradient_norm
from ttrace.judge.optimizers.restarted_state import Restart, find_restart
from ttrace.judge.optimizers.sharded_update import ShardedUpdate, find_sharded_update
from ttrace.judge.optimizers.state_decay import StateDecay, find_state_decays
from ttrace.judge.optimizers.unscaled_backward import (
    UnscaledBackward,
    find_unscaled_backward,
)
from ttrace.judge.optimizers.update_fit import UpdateFit, fit_updates
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.reading.values import values_of
from ttrace.judge.settings.optimizer_settings import (
    OptimizerDifference,
    optimizer_differences,
)
from ttrace.judge.verdicts.verdict import TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEvidence:
    """In the first step in which gradients or updates failed.

    Attributes:
        accumulated: What gradients hold of the candidate's own of the step before;
            None unless all that were read do.
        updates: What explains updates, or that nothing does, of those that were read.
        adam: Settings of Adam that explain moments and updates, of those that were
            read.
        restart: A step in which the optimizer's state starts anew; None if none does.
        settings: Settings of the optimizers that both runs recorded, and that differ.
        early_clipping: When the runs clip, where one of them does too early.
        average: How both runs average parameters, where they do otherwise.
        state_decays: States of the optimizer that hold a share of their parameter more
            or less.
        unscaled: A run that divides gradients by a loss scale which is not in them;
            None if neither does, or both do.
        idle_groups: Step and name of each group of parameters that only the candidate
            has, and whose learning rate is 0.
        norm: The norm of gradients, where it is wrong and they are not.
        sharded: Updates that are orthogonal by shard.
    """

    accumulated: Accumulated | None = None
    updates: tuple[UpdateFit, ...] = ()
    adam: tuple[SettingFit, ...] = ()
    restart: Restart | None = None
    settings: tuple[OptimizerDifference, ...] = ()
    early_clipping: EarlyClipping | None = None
    average: AverageFit | None = None
    state_decays: tuple[StateDecay, ...] = ()
    unscaled: UnscaledBackward | None = None
    idle_groups: tuple[tuple[int, str], ...] = ()
    norm: GradientNorm | None = None
    sharded: ShardedUpdate | None = None


def read_optimizer(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> OptimizerEvidence:
    """Reads what may explain the failed gradients and updates.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
    """
    accumulated = explained(find_accumulated, None, verdicts, reference, candidate)
    return OptimizerEvidence(
        accumulated=accumulated,
        updates=fit_updates(verdicts, reference, candidate),
        adam=explained(fit_settings, (), verdicts, reference, candidate),
        restart=explained(find_restart, None, verdicts, reference, candidate),
        settings=optimizer_differences(reference.info, candidate.info),
        early_clipping=find_early_clipping(reference.info, candidate.info),
        average=explained(fit_averages, None, verdicts, reference, candidate),
        state_decays=explained(find_state_decays, (), verdicts, reference, candidate),
        unscaled=find_unscaled_backward(verdicts, reference.info, candidate.info),
        idle_groups=explained(_idle_groups, (), verdicts, candidate),
        norm=explained(find_gradient_norm, None, verdicts, candidate.info),
        sharded=explained(find_sharded_update, None, verdicts, reference, candidate),
    )


def _idle_groups(
    verdicts: Sequence[TensorVerdict], candidate: TraceSource
) -> tuple[tuple[int, str], ...]:
    found = []
    for verdict in verdicts:
        id_ = verdict.id
        if id_.kind is not Kind.LEARNING_RATE or verdict.present is not Side.CANDIDATE:
            continue
        rate = values_of(id_, candidate)
        if rate is not None and not rate.any():
            found.append((id_.step, id_.slot or "learning_rate"))
    return tuple(found)
