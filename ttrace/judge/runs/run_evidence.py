"""What one of the runs lacks, and how the runs differ as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttrace.compare.calls.call_counts import CallCount, Place, differing_calls
from ttrace.compare.collectives.collective_results import (
    CollectiveCheck,
    wrong_collectives,
)
from ttrace.compare.collectives.repeated_reductions import (
    RepeatedReduction,
    repeated_reductions,
)
from ttrace.compare.tied import Untied
from ttrace.ir.frozen_parameters import Frozen, frozen_in
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.absences.absences import Absences
from ttrace.judge.absences.own_gradients import OwnGradients
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.revisions.call_counts import is_of_call
from ttrace.judge.runs.collective_order import OrderFault, find_order_faults
from ttrace.judge.runs.merged_adapters import MergedAdapters, find_merged_adapters
from ttrace.judge.runs.microbatch_factors import (
    MicrobatchFactors,
    find_microbatch_factors,
)
from ttrace.judge.runs.moved_positions import MovedPositions, find_moved_positions
from ttrace.judge.runs.one_microbatch import OneMicrobatch, find_one_microbatch
from ttrace.judge.runs.rank_samples import (
    PartedSamples,
    SharedSamples,
    find_parted_samples,
    find_shared_samples,
)
from ttrace.judge.runs.run_numbers import RunNumber, run_numbers
from ttrace.judge.runs.still_statistics import StillStatistics, find_still_statistics
from ttrace.judge.runs.tied_parameters import SplitTie, find_split_ties
from ttrace.judge.runs.token_losses import TokenLosses, find_token_losses
from ttrace.judge.runs.trace_lines import only_one_steps_early
from ttrace.judge.runs.undescribed import Undescribed, find_undescribed
from ttrace.judge.settings.dropout_rates import dropout_differences
from ttrace.judge.settings.module_settings import module_differences
from ttrace.judge.settings.setting_difference import SettingDifference
from ttrace.judge.verdicts.verdict import TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvidence:
    """Of both runs.

    Attributes:
        absences: What one of the runs does not have.
        own: Gradients that the candidate recorded, compared or not; None where only
            the candidate as it was compared is known.
        calls: Where both runs call a module, and not as often.
        split_ties: Parameters that are one in one run and two in the other.
        dropout: Rates of dropout that both runs state, and that differ.
        still: Modules whose running statistics move in one run only.
        one_microbatch: The micro-batch whose gradients alone those of a step are; None
            if that is not so, or not known.
        factors: What micro-batches of the candidate make of the first failed gradient
            of an activation, if they are parts of one of the reference.
        steps_apart: One run ended its steps before the updates, so that those of two
            steps were compared.
        undescribed: Parameters of which the candidate's ranks have parts, and nothing
            says so: all else is told under a wrong assumption.
        shared_samples: Ranks of the candidate that were given those of others.
        misordered: Where ranks of the candidate run other collectives than their group.
        wrong_collectives: Those of the candidate that gave something else than they
            are defined to.
        repeated: Sums of the candidate of what it had reduced before.
        modules: What both runs state of modules, and have otherwise.
        frozen_in_reference: Parameters that need no gradient there, as far as it says
            so.
        parted_samples: Ranks of the candidate that were given other samples than those
            that share their micro-batches.
        moved: Inputs that a run cuts otherwise than its dims text says: what is
            compared by such texts is told under a wrong assumption.
        numbers: Of micro-batches and ranks, which a factor may be.
        merged: Weights that differ, of modules with adapters in one run only.
        tokens: What the first gradient shows of the losses of both runs.
    """

    absences: Absences = Absences()
    own: OwnGradients | None = None
    calls: Mapping[Place, CallCount] = field(default_factory=dict)
    split_ties: tuple[SplitTie, ...] = ()
    dropout: tuple[SettingDifference, ...] = ()
    still: tuple[StillStatistics, ...] = ()
    one_microbatch: OneMicrobatch | None = None
    factors: MicrobatchFactors | None = None
    steps_apart: bool = False
    undescribed: Undescribed | None = None
    shared_samples: SharedSamples | None = None
    misordered: tuple[OrderFault, ...] = ()
    wrong_collectives: tuple[CollectiveCheck, ...] = ()
    modules: tuple[SettingDifference, ...] = ()
    frozen_in_reference: Frozen = frozenset()
    repeated: tuple[RepeatedReduction, ...] = ()
    parted_samples: PartedSamples | None = None
    moved: MovedPositions | None = None
    numbers: tuple[RunNumber, ...] = ()
    merged: MergedAdapters | None = None
    tokens: TokenLosses | None = None

    def is_of_call(self, verdict: TensorVerdict) -> bool:
        """Whether it failed for want of a counterpart of a call."""
        return is_of_call(verdict, self.calls)


def read_runs(
    absences: Absences,
    own: OwnGradients,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    *,
    own_microbatches: TraceSource,
    untied: Untied | None,
) -> RunEvidence:
    """Reads how the runs differ.

    Args:
        absences: What one of them does not have.
        own: Gradients that the candidate recorded, compared or not.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
        own_microbatches: The candidate with the micro-batches that it had.
        untied: Parameters that one run ties and the other copies.
    """
    runs = (reference, candidate)
    misordered = explained(find_order_faults, (), own_microbatches.info)
    return RunEvidence(
        absences=absences,
        own=own,
        calls=differing_calls(reference.info, candidate.info),
        split_ties=()
        if untied is None
        else explained(find_split_ties, (), untied, verdicts, *runs),
        dropout=dropout_differences(reference.info, candidate.info),
        still=explained(find_still_statistics, (), verdicts, *runs),
        one_microbatch=explained(
            find_one_microbatch, None, verdicts, own_microbatches, reference
        ),
        factors=explained(find_microbatch_factors, None, verdicts, *runs),
        steps_apart=only_one_steps_early(reference.info, candidate.info),
        undescribed=explained(find_undescribed, None, *runs, own_microbatches),
        shared_samples=explained(find_shared_samples, None, verdicts, own_microbatches),
        misordered=misordered,
        wrong_collectives=()
        if misordered
        else explained(wrong_collectives, (), own_microbatches),
        repeated=()
        if misordered
        else explained(repeated_reductions, (), own_microbatches),
        modules=module_differences(reference.info, candidate.info),
        frozen_in_reference=frozen_in(rank.settings for rank in reference.info.ranks),
        parted_samples=explained(find_parted_samples, None, verdicts, own_microbatches),
        moved=explained(
            find_moved_positions, None, verdicts, reference, own_microbatches
        ),
        numbers=explained(run_numbers, (), reference.info, own_microbatches.info),
        merged=explained(
            find_merged_adapters, None, verdicts, absences.parameters, *runs
        ),
        tokens=explained(find_token_losses, None, verdicts, *runs),
    )
