"""What a comparison says of one tensor: its status, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ttrace.compare.execute import TensorResult
from ttrace.compare.parts import Part
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.tolerances.tolerance import Tolerance


class Status(StrEnum):
    """What became of a tensor; every tensor of either trace gets exactly one."""

    PASSED = "passed"
    FAILED = "failed"
    UNMATCHED = "unmatched"
    SKIPPED = "skipped"


class Cause(StrEnum):
    """Why a tensor failed; the ``cause`` of a tensor in the report."""

    ERROR = "error"
    """The difference exceeds the tolerance."""

    REPLICAS = "replicas"
    """Replicas that must agree do not."""

    ROUTING = "routing"
    """Rows that depend on data are not the same, and noise does not explain it."""

    SHAPE = "shape"
    """The logical shapes are not the same."""

    MASKS = "masks"
    """Masks in two notations do not keep the same."""

    LOST_UPDATE = "lost_update"
    """A parameter changed in a step of the reference, and not at all in this one."""

    ROUNDED_UPDATE = "rounded_update"
    """The same, as the update is below the resolution of the candidate's dtype."""

    SAMPLES = "samples"
    """The model was not given the same samples in a step."""

    ONE_SIDED_SKIP = "one_sided_skip"
    """The optimizer skipped the step in one run, and not in the other."""

    INFINITIES = "infinities"
    """An activation has infinities in both runs, and not the same ones."""

    NONFINITE_CANDIDATE = "nonfinite_candidate"
    """NaN or infinity in the candidate where the reference has a number."""

    NONFINITE_REFERENCE = "nonfinite_reference"
    """NaN in the reference, or an infinity where no mask puts one: it cannot be
    trusted."""


class PartReason(StrEnum):
    """Why a tensor was compared in part; its ``part`` in the report."""

    RANKS = "ranks"
    """Ranks that hold the rest were left out of a recording on purpose."""

    ROWS = "rows"
    """The same, of a tensor whose rows depend on data: rows in common are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFigures:
    """What a tensor failed by, where only a part of it did.

    Attributes:
        name: Which indices of which dim, and whose they are, as far as that is known.
        rel_err: Of the part.
        tolerance: The largest that rounding explains, of the part.
        derivation: Where that comes from, in words.
        margin: ``rel_err`` over ``tolerance``.
        scale_fit: Factor f that brings f x the reference's part closest; None where
            that is zero.
    """

    name: str
    rel_err: float
    tolerance: float
    derivation: str
    margin: float
    scale_fit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedPart:
    """A part that a tensor failed by.

    Attributes:
        part: Which part.
        figures: What it failed by.
    """

    part: Part
    figures: PartFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorVerdict:
    """The judgement of one tensor.

    Attributes:
        id: Its identity.
        status: What became of it.
        reason: One sentence; empty for a plain pass of the whole tensor.
        cause: Why it failed; None unless it did.
        setup: It belongs to what the runs were given (initial parameters, inputs): a
            difference here is not a bug of the computation.
        result: The figures; None where nothing was compared.
        tolerance: What was tolerated; None where nothing was compared.
        margin: Error over tolerance; above 1 is a divergence. None where nothing was
            compared, infinite where nothing was tolerated.
        part: Why only a part of it was compared; None where all of it was, or nothing.
        excused: It was left out at the user's word: by a filter, by ``--allow`` or by
            a map; or it is a gradient of a step that an optimizer skipped.
        present: The only run that has it; None if both have some of it.
        beyond: The step, or micro-batch, that it is of, where the other run has nothing
            of that; else empty.
        failed_part: The part that it failed by, where it passes as a whole: ``margin``
            is that of this part.
        failed_parts: All parts that it failed by, the worst first.
        allowed: What allows it to be unmatched, so that it is skipped; else empty.
        summed_over: Mesh axes over which the candidate's ranks have values that differ
            and that add up to the reference's; a tensor that is skipped for that.
    """

    id: TensorId
    status: Status
    reason: str = ""
    cause: Cause | None = None
    setup: bool = False
    result: TensorResult | None = None
    tolerance: Tolerance | None = None
    margin: float | None = None
    part: PartReason | None = None
    excused: bool = False
    present: Side | None = None
    beyond: str = ""
    failed_part: PartFigures | None = None
    failed_parts: tuple[FailedPart, ...] = ()
    allowed: str = ""
    summed_over: tuple[str, ...] = ()

    @property
    def candidate_ranks(self) -> frozenset[int]:
        """The candidate's ranks that have some of it; none where it is not compared."""
        if self.result is None:
            return frozenset()
        shards = self.result.plan.match.candidate.shards
        return frozenset(shard.rank for shard in shards)

    @property
    def noise_dominated(self) -> bool:
        """Whether it passed, with a tolerance in which an error could hide."""
        return (
            self.status is Status.PASSED
            and self.tolerance is not None
            and self.tolerance.noise_dominated
        )


def count_statuses(verdicts: Iterable[TensorVerdict]) -> Mapping[Status, int]:
    """Number of tensors per status; every status has an entry."""
    counts = dict.fromkeys(Status, 0)
    for verdict in verdicts:
        counts[verdict.status] += 1
    return counts
