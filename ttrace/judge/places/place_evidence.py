"""What is read at the place of the first divergence, to explain it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttrace.compare.backend import Backend
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.absences.absences import Absences
from ttrace.judge.frontier.first_divergence import FirstDivergence
from ttrace.judge.places.activation_variant import (
    ActivationVariant,
    find_activation_variant,
)
from ttrace.judge.places.added_bias import AddedBias, find_added_bias
from ttrace.judge.places.attention.attention_variant import (
    AttentionVariant,
    find_attention_variant,
)
from ttrace.judge.places.backward_inside import BackwardInside, find_backward_inside
from ttrace.judge.places.carried_input import CarriedInput, find_carried_input
from ttrace.judge.places.carried_states import (
    extra_activation_gradients,
    find_carried_states,
)
from ttrace.judge.places.changed_weight import ChangedWeight, find_changed_weight
from ttrace.judge.places.coarse_values import CoarseValues, find_coarse_values
from ttrace.judge.places.collectives_inside import (
    CollectivesInside,
    find_collectives_inside,
)
from ttrace.judge.places.confinement import Confinement, find_confinement
from ttrace.judge.places.counted_positions import (
    CountedPositions,
    find_counted_positions,
)
from ttrace.judge.places.dropout_masks import DropoutMasks, find_dropout_masks
from ttrace.judge.places.dropped_share import DroppedShare, find_dropped_share
from ttrace.judge.places.embedding_rows import EmbeddingRows, find_embedding_rows
from ttrace.judge.places.flipped_kernel import FlippedKernel, find_flipped_kernel
from ttrace.judge.places.mask_difference import MaskDifference, find_mask_difference
from ttrace.judge.places.norms.batch_statistics import (
    BatchStatistics,
    find_batch_statistics,
)
from ttrace.judge.places.norms.norm_epsilon import NormEpsilon, find_norm_epsilon
from ttrace.judge.places.one_sided_inputs import OneSidedInputs, find_one_sided_inputs
from ttrace.judge.places.out_of_turn import LEAST_COUNTS, OutOfTurn, find_out_of_turn
from ttrace.judge.places.rearrangement import Rearrangement, find_rearrangement
from ttrace.judge.places.scaled_submodule import ScaledSubmodule, find_scaled_submodule
from ttrace.judge.places.tied_share import TiedShare, find_tied_share
from ttrace.judge.places.transposed_weight import (
    TransposedWeight,
    find_transposed_weight,
)
from ttrace.judge.places.wiring import Wiring, find_wiring
from ttrace.judge.reading.diverged_values import read_diverged
from ttrace.judge.reading.own_faults import explained
from ttrace.judge.reading.values import nonfinite_index
from ttrace.judge.settings.dropout_rates import rates_inside
from ttrace.judge.verdicts.verdict import Cause, TensorVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceEvidence:
    """At the first divergence.

    Attributes:
        first: The first divergence.
        confined: Where its error lies; None where it is spread.
        rows: Rows of an embedding that it lies in; None if it is no embedding's.
        bias: The bias that it is a multiple of; None if it is not.
        wiring: What it is given instead, if it is an input; None if that is not known.
        rates_inside: What its module drops inside of it, alike in both runs.
        masks: Zeros of dropout that it differs by; None if by others.
        inputs: What its module is given in one run only.
        submodule: The output inside that it is off by a multiple of.
        rearrangement: In which order it has the reference's values; None if it has
            others.
        coarse: The coarser dtype that its values are numbers of.
        epsilon: Those of a norm that it is the output of, where they explain it.
        activation: The functions that it is of what agrees, where they explain it.
        turn: When the reference has it.
        transposed: The weight whose transpose explains it.
        collectives: What its call runs on other ranks; None where none was recorded.
        extra_activations: Gradients of activations that the candidate alone has in its
            step, if it is a gradient.
        carried: Of inputs that one run gives, or that have a gradient in one run only:
            the output of the same module, of a call before, that they are.
        nonfinite_at: Where in the first tensor with NaN or infinities of the candidate
            the first one lies; None if there is none, or that was not read.
        share: Of the gradient of an embedding: which use of it that lacks.
        dropped: The output of which it has other elements.
        attention: The traits of an attention that explain it.
        positions: Where it begins anew, if it counts up.
        changed: The weight that it is made with, if it is not the recorded one.
        statistics: Those of a BatchNorm that explain it.
        mask: Places that a mask lets through in one run only.
        backward: Of a gradient: what its module is given agrees, and makes it wrong.
        flipped: The kernel whose flip explains it.
        carried_input: The earlier output that it is in the reference, if it is an
            input.
    """

    first: FirstDivergence | None = None
    confined: Confinement | None = None
    rows: EmbeddingRows | None = None
    bias: AddedBias | None = None
    wiring: Wiring | None = None
    rates_inside: tuple[str, ...] = ()
    masks: DropoutMasks | None = None
    inputs: OneSidedInputs | None = None
    submodule: ScaledSubmodule | None = None
    rearrangement: Rearrangement | None = None
    coarse: CoarseValues | None = None
    epsilon: NormEpsilon | None = None
    activation: ActivationVariant | None = None
    turn: OutOfTurn | None = None
    transposed: TransposedWeight | None = None
    collectives: CollectivesInside | None = None
    extra_activations: tuple[TensorVerdict, ...] = ()
    carried: Mapping[TensorId, TensorId] = field(default_factory=dict)
    nonfinite_at: tuple[int, ...] | None = None
    share: TiedShare | None = None
    dropped: DroppedShare | None = None
    backward: BackwardInside | None = None
    mask: MaskDifference | None = None
    attention: AttentionVariant | None = None
    positions: CountedPositions | None = None
    changed: ChangedWeight | None = None
    statistics: BatchStatistics | None = None
    flipped: FlippedKernel | None = None
    carried_input: CarriedInput | None = None


def read_place(
    first: FirstDivergence | None,
    absences: Absences,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> PlaceEvidence:
    """Reads what may explain the first divergence.

    Args:
        first: It; None if nothing diverges.
        absences: What one of the runs does not have.
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, under the reference's names.
        backend: Computes the statistics.
    """
    if first is None:
        return PlaceEvidence()
    id_ = parse_tensor_id(first.id)
    diverged = next((verdict for verdict in verdicts if verdict.id == id_), None)
    infos, runs = (reference.info, candidate.info), (reference, candidate)
    values = explained(read_diverged, None, diverged, *runs)
    few = values or explained(
        read_diverged, None, diverged, *runs, least_elements=LEAST_COUNTS
    )
    inputs = explained(find_one_sided_inputs, None, diverged, verdicts, *infos)
    extra = extra_activation_gradients(diverged, verdicts)
    one_sided = (*absences.gradients, *extra)
    return PlaceEvidence(
        first=first,
        confined=explained(find_confinement, None, diverged, *runs, backend),
        rows=explained(find_embedding_rows, None, diverged, verdicts, *runs),
        bias=explained(find_added_bias, None, values, reference, candidate.info),
        wiring=explained(find_wiring, None, diverged, verdicts, *runs),
        rates_inside=rates_inside(first.module, *infos),
        masks=explained(find_dropout_masks, None, diverged, *runs),
        inputs=inputs,
        submodule=explained(find_scaled_submodule, None, values, verdicts, reference),
        rearrangement=explained(find_rearrangement, None, values),
        coarse=explained(find_coarse_values, None, values, *infos),
        epsilon=explained(find_norm_epsilon, None, values, reference),
        activation=explained(
            find_activation_variant, None, values, verdicts, reference
        ),
        turn=explained(find_out_of_turn, None, few, reference),
        transposed=explained(find_transposed_weight, None, values, reference),
        collectives=explained(find_collectives_inside, None, diverged, *runs),
        extra_activations=tuple(extra),
        carried=explained(find_carried_states, {}, one_sided, inputs, *runs),
        nonfinite_at=explained(_nonfinite_at, None, verdicts, candidate),
        share=explained(find_tied_share, None, values, reference),
        backward=explained(find_backward_inside, None, values, verdicts, reference),
        mask=explained(find_mask_difference, None, diverged, values, verdicts, *runs),
        positions=explained(find_counted_positions, None, values),
        changed=explained(find_changed_weight, None, values, verdicts, *runs),
        statistics=explained(find_batch_statistics, None, values, verdicts, *runs),
        attention=explained(find_attention_variant, None, values, verdicts, reference),
        dropped=explained(find_dropped_share, None, values, verdicts, reference),
        flipped=explained(find_flipped_kernel, None, values, reference),
        carried_input=explained(find_carried_input, None, diverged, verdicts, *runs),
    )


def _nonfinite_at(
    verdicts: Sequence[TensorVerdict], candidate: TraceSource
) -> tuple[int, ...] | None:
    for verdict in verdicts:
        if verdict.cause is Cause.NONFINITE_CANDIDATE:
            return nonfinite_index(verdict.id, candidate)
    return None
