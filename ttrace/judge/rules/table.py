"""The table of the rules of diagnosis, and what applies them.

A new rule is one file beside this one, with one function, and its line here.
"""

from collections.abc import Sequence

from ttrace.ir.trace import TraceInfo
from ttrace.judge.absences.absences import find_absences
from ttrace.judge.absences.own_gradients import own_gradients
from ttrace.judge.diagnosis import Diagnosis, Findings, Rule
from ttrace.judge.evidence import Evidence
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.rules.accumulated_gradient import accumulated_gradient
from ttrace.judge.rules.activation_variant import activation_variant
from ttrace.judge.rules.adam_settings import adam_settings
from ttrace.judge.rules.added_bias import added_bias
from ttrace.judge.rules.after_backward import after_backward
from ttrace.judge.rules.attention_variant import attention_variant
from ttrace.judge.rules.average_settings import average_settings
from ttrace.judge.rules.backward_between import backward_between
from ttrace.judge.rules.backward_inside import backward_inside
from ttrace.judge.rules.batch_statistics import batch_statistics
from ttrace.judge.rules.call_counts import call_counts
from ttrace.judge.rules.carried_input import carried_input
from ttrace.judge.rules.changed_weight import changed_weight
from ttrace.judge.rules.clipping import clipping
from ttrace.judge.rules.coarse_values import coarse_values
from ttrace.judge.rules.collective_differs import collective_differs
from ttrace.judge.rules.collective_group import collective_group
from ttrace.judge.rules.collective_missing import collective_missing
from ttrace.judge.rules.collective_order import collective_order
from ttrace.judge.rules.collective_repeated import collective_repeated
from ttrace.judge.rules.collective_result import collective_result
from ttrace.judge.rules.collectives_inside import collectives_inside
from ttrace.judge.rules.confined_error import confined_error
from ttrace.judge.rules.described_shape import described_shape
from ttrace.judge.rules.dropout import dropout
from ttrace.judge.rules.early_clipping import early_clipping
from ttrace.judge.rules.embedding_rows import embedding_rows
from ttrace.judge.rules.extra_activation_gradient import (
    extra_activation_gradient,
)
from ttrace.judge.rules.extra_gradient import extra_gradient
from ttrace.judge.rules.first_nonfinite import first_nonfinite
from ttrace.judge.rules.flipped_kernel import flipped_kernel
from ttrace.judge.rules.gradient_norm import gradient_norm
from ttrace.judge.rules.group_rates import group_rates
from ttrace.judge.rules.initial_replicas import initial_replicas
from ttrace.judge.rules.loss_alone import loss_alone
from ttrace.judge.rules.loss_scale import loss_scale
from ttrace.judge.rules.loss_targets import loss_targets
from ttrace.judge.rules.loss_weights import loss_weights
from ttrace.judge.rules.mask_differs import mask_differs
from ttrace.judge.rules.missing_layers import missing_layers
from ttrace.judge.rules.module_settings import module_settings
from ttrace.judge.rules.never_updated import never_updated
from ttrace.judge.rules.no_gradient import no_gradient
from ttrace.judge.rules.norm_epsilon import norm_epsilon
from ttrace.judge.rules.normalization import normalization
from ttrace.judge.rules.not_run import not_run
from ttrace.judge.rules.one_microbatch import one_microbatch
from ttrace.judge.rules.one_sided_inputs import one_sided_inputs
from ttrace.judge.rules.one_sided_parameters import one_sided_parameters
from ttrace.judge.rules.optimizer_settings import optimizer_settings
from ttrace.judge.rules.out_of_turn import out_of_turn
from ttrace.judge.rules.position_restarts import position_restarts
from ttrace.judge.rules.rank_factors import rank_factors
from ttrace.judge.rules.rearranged import rearranged
from ttrace.judge.rules.recomputation import recomputation
from ttrace.judge.rules.repeated_layer import repeated_layer
from ttrace.judge.rules.repeated_samples import repeated_samples
from ttrace.judge.rules.replicas_differ import replicas_differ
from ttrace.judge.rules.restarted_state import restarted_state
from ttrace.judge.rules.rounded_update import rounded_update
from ttrace.judge.rules.scaled import scaled
from ttrace.judge.rules.scaled_clipping import scaled_clipping
from ttrace.judge.rules.scaled_submodule import scaled_submodule
from ttrace.judge.rules.several_updates import several_updates
from ttrace.judge.rules.sharded_gradients import sharded_gradients
from ttrace.judge.rules.split_ties import split_ties
from ttrace.judge.rules.state_decay import state_decay
from ttrace.judge.rules.step_skipped import step_skipped
from ttrace.judge.rules.still_statistics import still_statistics
from ttrace.judge.rules.trained_in_one import trained_in_one
from ttrace.judge.rules.transposed_weight import transposed_weight
from ttrace.judge.rules.unscaled_backward import unscaled_backward
from ttrace.judge.rules.unseen_clipping import unseen_clipping
from ttrace.judge.rules.unseen_copies import unseen_copies
from ttrace.judge.rules.update_hyperparameters import update_hyperparameters
from ttrace.judge.rules.update_per_shard import update_per_shard
from ttrace.judge.rules.wiring import wiring
from ttrace.judge.rules.written_parameters import written_parameters
from ttrace.judge.runs.run_evidence import RunEvidence
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

RULES: tuple[Rule, ...] = (
    described_shape,
    initial_replicas,
    step_skipped,
    collective_order,
    collective_differs,
    collective_group,
    collective_result,
    collective_repeated,
    collective_missing,
    first_nonfinite,
    repeated_layer,
    missing_layers,
    repeated_samples,
    one_sided_parameters,
    several_updates,
    not_run,
    call_counts,
    split_ties,
    recomputation,
    added_bias,
    scaled_submodule,
    norm_epsilon,
    activation_variant,
    attention_variant,
    transposed_weight,
    flipped_kernel,
    batch_statistics,
    changed_weight,
    mask_differs,
    position_restarts,
    out_of_turn,
    carried_input,
    wiring,
    rearranged,
    coarse_values,
    trained_in_one,
    no_gradient,
    extra_gradient,
    extra_activation_gradient,
    rounded_update,
    never_updated,
    written_parameters,
    normalization,
    loss_scale,
    unscaled_backward,
    loss_targets,
    loss_weights,
    module_settings,
    still_statistics,
    dropout,
    early_clipping,
    scaled_clipping,
    gradient_norm,
    clipping,
    rank_factors,
    accumulated_gradient,
    one_microbatch,
    restarted_state,
    update_per_shard,
    state_decay,
    adam_settings,
    update_hyperparameters,
    average_settings,
    optimizer_settings,
    group_rates,
    unseen_copies,
    replicas_differ,
    scaled,
    loss_alone,
    after_backward,
    sharded_gradients,
    unseen_clipping,
    embedding_rows,
    one_sided_inputs,
    backward_between,
    confined_error,
    backward_inside,
    collectives_inside,
)
"""Strongest first: what explains the most, and leaves the least doubt."""


def diagnose(
    verdicts: Sequence[TensorVerdict],
    candidate: TraceInfo,
    evidence: Evidence | None = None,
) -> tuple[Diagnosis, ...]:
    """Applies every rule; those that have nothing to say are left out.

    Where updates of two steps were compared, nothing is known of the candidate; nor
    where its ranks have parts of parameters that nothing describes, or a run cuts its
    inputs otherwise than it says.
    """
    if evidence is not None and (
        evidence.runs.steps_apart or evidence.runs.undescribed or evidence.runs.moved
    ):
        return ()
    own = None if evidence is None else evidence.runs.own
    own = own or own_gradients(candidate)
    findings = Findings(
        verdicts=verdicts,
        failed=[verdict for verdict in verdicts if verdict.status is Status.FAILED],
        candidate=candidate,
        evidence=evidence
        or Evidence(runs=RunEvidence(absences=find_absences(verdicts, own))),
        own=own,
    )
    answers = (explained(rule, None, findings) for rule in RULES)
    return _in_order([answer for answer in answers if answer is not None], findings)


def _in_order(answers: list[Diagnosis], findings: Findings) -> tuple[Diagnosis, ...]:
    """The factor that the first divergence has comes before replicas that follow it.

    A sum over ranks that is made twice is a missing one further on.
    """
    order = [answer.code for answer in answers]
    if not {"scaled", "replicas_differ"} <= {*order}:
        return tuple(answers)
    factor, replicas = order.index("scaled"), order.index("replicas_differ")
    first = str(findings.failed[0].id)
    is_of_first = first in answers[factor].tensor_ids
    if replicas < factor and is_of_first and first not in answers[replicas].tensor_ids:
        answers.insert(replicas, answers.pop(factor))
    return tuple(answers)
