"""What is read of both runs to explain what failed, by subject.

A rule of diagnosis says only what was checked; what verdicts do not hold is checked
here, on a few of the tensors that failed. Nothing is judged.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.backend import Backend
from ttrace.compare.calls.call_counts import Place
from ttrace.compare.tied import Untied
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.absences.absences import find_absences
from ttrace.judge.absences.own_gradients import own_gradients
from ttrace.judge.frontier.first_divergence import find_first_divergence
from ttrace.judge.optimizers.optimizer_evidence import OptimizerEvidence, read_optimizer
from ttrace.judge.places.place_evidence import PlaceEvidence, read_place
from ttrace.judge.runs.run_evidence import RunEvidence, read_runs
from ttrace.judge.runs.trace_lines import OF_OPTIMIZERS, has_no_optimizer
from ttrace.judge.verdicts.verdict import TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was read.

    Attributes:
        place: At the first divergence.
        optimizer: Of gradients, the optimizer's state and updates.
        runs: Of both runs as a whole.
    """

    place: PlaceEvidence = PlaceEvidence()
    optimizer: OptimizerEvidence = OptimizerEvidence()
    runs: RunEvidence = RunEvidence()


def read_evidence(
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
    *,
    own_microbatches: TraceSource | None = None,
    recorded: TraceInfo | None = None,
    untied: Untied | None = None,
    matched_calls: Collection[Place] = (),
) -> Evidence:
    """Reads what may explain what failed.

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
        matched_calls: Where the candidate is shown with the calls of the reference.
    """
    own = own_gradients(
        recorded or candidate.info, shown=candidate.info, matched=matched_calls
    )
    absences = find_absences(verdicts, own)
    if has_no_optimizer(candidate.info):  # what it would be given was not recorded
        absences = replace(
            absences,
            gradients=tuple(
                v for v in absences.gradients if v.id.kind not in OF_OPTIMIZERS
            ),
            frozen=tuple(v for v in absences.frozen if v.id.kind not in OF_OPTIMIZERS),
        )
    first = find_first_divergence(verdicts, absences)
    return Evidence(
        place=read_place(first, absences, verdicts, reference, candidate, backend),
        optimizer=read_optimizer(verdicts, reference, candidate),
        runs=read_runs(
            absences,
            own,
            verdicts,
            reference,
            candidate,
            own_microbatches=own_microbatches or candidate,
            untied=untied,
        ),
    )
