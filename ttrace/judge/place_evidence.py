"""What is read at the place of the first divergence, to explain it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.compare.backend import Backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.added_bias import AddedBias, find_added_bias
from ttrace.judge.confinement import Confinement, find_confinement
from ttrace.judge.dropout_masks import DropoutMasks, find_dropout_masks
from ttrace.judge.dropout_rates import rates_inside
from ttrace.judge.embedding_rows import EmbeddingRows, find_embedding_rows
from ttrace.judge.first_divergence import FirstDivergence
from ttrace.judge.one_sided_inputs import OneSidedInputs, find_one_sided_inputs
from ttrace.judge.own_faults import explained
from ttrace.judge.scaled_submodule import ScaledSubmodule, find_scaled_submodule
from ttrace.judge.verdict import TensorVerdict
from ttrace.judge.wiring import Wiring, find_wiring


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


def read_place(
    first: FirstDivergence | None,
    verdicts: Sequence[TensorVerdict],
    reference: TraceSource,
    candidate: TraceSource,
    backend: Backend,
) -> PlaceEvidence:
    """Reads what may explain the first divergence.

    Args:
        first: It; None if nothing diverges.
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
    return PlaceEvidence(
        first=first,
        confined=explained(find_confinement, None, diverged, *runs, backend),
        rows=explained(find_embedding_rows, None, diverged, *runs),
        bias=explained(find_added_bias, None, diverged, *runs),
        wiring=explained(find_wiring, None, diverged, verdicts, *runs),
        rates_inside=rates_inside(first.module, *infos),
        masks=explained(find_dropout_masks, None, diverged, *runs),
        inputs=explained(find_one_sided_inputs, None, diverged, verdicts, *infos),
        submodule=explained(find_scaled_submodule, None, diverged, verdicts, *runs),
    )
