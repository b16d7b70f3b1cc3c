"""From figures to verdicts: every judgement on tensors, in the order they are made."""

from collections.abc import Collection, Iterable, Mapping

from ttrace.compare.align import Alignment
from ttrace.compare.backend import Backend
from ttrace.compare.calls.call_counts import CallCount, Place
from ttrace.compare.execute import TensorResult
from ttrace.compare.layouts.deduced_layouts import DeducedLayout
from ttrace.compare.samples.samples import StepSamples
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.revisions.assumed_layouts import skip_apart_in_both
from ttrace.judge.revisions.call_counts import skip_other_calls
from ttrace.judge.revisions.carried_inputs import take_carried_inputs
from ttrace.judge.revisions.deduced_layouts import doubt_layouts
from ttrace.judge.revisions.idle_gradients import skip_idle_gradients
from ttrace.judge.revisions.known_noise import KnownNoise, excuse_known_noise
from ttrace.judge.revisions.module_borders import find_border_differences
from ttrace.judge.revisions.optimizer_parts import skip_other_optimizer_parts
from ttrace.judge.revisions.parts import JoinedFrom, judge_parts
from ttrace.judge.revisions.sample_variance import skip_other_variances
from ttrace.judge.revisions.still_state import skip_still_state
from ttrace.judge.revisions.turned_updates import TurnedUpdates, excuse_turned_updates
from ttrace.judge.revisions.unused_outputs import skip_unused_outputs
from ttrace.judge.revisions.written_parameters import judge_written
from ttrace.judge.tolerances.limits import Limits
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.allowances import Allowed
from ttrace.judge.verdicts.structure import (
    StructureDifference,
    find_structure_differences,
)
from ttrace.judge.verdicts.tensors import judge
from ttrace.judge.verdicts.updates import lost_updates
from ttrace.judge.verdicts.verdict import TensorVerdict


def judge_tensors(
    alignment: Alignment,
    results: Iterable[TensorResult],
    tolerances: ToleranceTable,
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    allow: Allowed = (),
    strict_structure: bool = False,
    joined_from: JoinedFrom = lambda tensor_id: (),
    unverified: Collection[TensorId] = (),
    deduced: Mapping[TensorId, DeducedLayout] | None = None,
    padded: Mapping[int, StepSamples] | None = None,
    assumed_calls: Mapping[Place, CallCount] | None = None,
) -> tuple[tuple[TensorVerdict, ...], tuple[StructureDifference, ...]]:
    """Judges every tensor; reads again only what figures leave open.

    Args:
        alignment: All tensors of both traces.
        results: One result per match of the alignment.
        tolerances: What rounding explains.
        reference: The trusted run.
        candidate: The run under test.
        backend: Computes the statistics.
        allow: What may be unmatched.
        strict_structure: Modules that only one run has are unmatched, also where
            everything around them agrees.
        joined_from: What names the parts of a tensor that a map joined.
        unverified: What a map brings together without proof.
        deduced: Layouts that follow from shapes alone.
        padded: Steps whose samples the runs pad to other lengths.
        assumed_calls: Where calls were matched although they are not all given the
            same.

    Returns:
        The verdicts, in the order of the alignment, and the modules that only one run
        has and that change nothing.
    """
    results = list(results)
    verdicts = judge(
        alignment,
        results,
        tolerances,
        reference.info,
        candidate.info,
        allow=allow,
        lost_updates=lost_updates(results, reference, candidate, backend),
    )
    verdicts = take_carried_inputs(verdicts, reference)
    known = KnownNoise(verdicts, reference, backend, tolerances.policy)
    verdicts = excuse_known_noise(verdicts, known)
    turned = TurnedUpdates(verdicts, reference)
    verdicts = excuse_turned_updates(verdicts, turned, policy=tolerances.policy)
    verdicts = judge_parts(
        verdicts,
        reference,
        candidate,
        backend,
        Limits.of_runs(
            tolerances,
            (entry.id for entry in alignment.entries),
            reference.info,
            candidate.info,
        ),
        turned,
        known,
        joined_from=joined_from,
    )
    verdicts = judge_written(verdicts, tolerances.policy)
    verdicts = doubt_layouts(verdicts, deduced or {}, reference, candidate)
    verdicts = skip_apart_in_both(verdicts)
    verdicts = skip_other_variances(verdicts, reference, candidate)
    verdicts = skip_unused_outputs(verdicts, padded or {}, reference, candidate)
    if strict_structure:
        return verdicts, ()
    verdicts = skip_idle_gradients(verdicts)
    verdicts = skip_still_state(verdicts, reference, candidate)
    verdicts = skip_other_optimizer_parts(verdicts, reference, candidate)
    verdicts, borders = find_border_differences(
        verdicts, unverified, reference, candidate
    )
    verdicts, structure = find_structure_differences(
        verdicts, reference.info, candidate.info
    )
    verdicts, calls = skip_other_calls(
        verdicts, reference.info, candidate.info, assumed=assumed_calls
    )
    return verdicts, (*borders, *structure, *calls)
