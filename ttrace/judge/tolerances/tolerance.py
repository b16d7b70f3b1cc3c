"""How large an error rounding explains, per tensor, and how that was derived.

Values and their JSON file; ``ttrace.judge.tolerances.estimate`` measures the noise.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from ttrace.compare.parts import Part
from ttrace.errors import SchemaVersionError, TraceError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import GRADIENTS, Kind, Phase, kinds_of_phases
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.judge.tolerances.noise_profile import NoiseProfile
from ttrace.judge.tolerances.origin import Origin
from ttrace.judge.tolerances.precision import CoarserCompute
from ttrace.judge.tolerances.scalar_sums import ScalarSum
from ttrace.store.documents import read_document
from ttrace.store.output_file import write_output

TOLERANCE_FILE = "tolerance.json"
"""In the folder of a check: what it measured of the noise."""

SCHEMA_VERSION = 1
"""Version of the tolerance file; a reader refuses any other."""


_QUADRATIC = frozenset({Kind.OPTIMIZER_STATE})
"""Kinds that may be made of squares of a gradient."""


_COMPUTED = frozenset(
    {*kinds_of_phases(Phase.FORWARD, Phase.BACKWARD), *GRADIENTS, Kind.GRAD_NORM}
)
"""Kinds that are computed anew in every step: in the dtype of the computation, whatever
they are stored in. Parameters and what an optimizer keeps are only changed a little."""


class Estimator(StrEnum):
    """Where a tolerance comes from."""

    PERTURBED = "perturbed"
    """From runs of the reference with injected rounding noise."""

    UNCALIBRATED = "uncalibrated"
    """From dtype and depth alone; no run was perturbed, or not for this tensor."""

    EXACT = "exact"
    """Nothing may differ: what the run was given, or values that are no floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TolerancePolicy:
    """The numbers that turn measured noise into a tolerance.

    Attributes:
        multiplier: Safety factor on the largest noise of all runs. A correct layout
            sums in another order and so makes an error of the noise's own size, one
            more draw of it.
        small_tensor_elements: The norm of a tensor of n elements is itself a draw
            that scatters by about 1/sqrt(n); few draws of it can be small by chance.
            The multiplier grows by the factor 1 + small_tensor_elements / n.
        floor_epsilons: The least tolerance, in epsilons of the storage dtype (the
            coarser one of both sides): one rounding on each side.
        floor_small_tensor_elements: The floor grows by 1 + this / n: over many elements
            roundings average out, a scalar may get several of one sign.
        depth_epsilons: Without noise runs: epsilons of the compute dtype, times the
            square root of the number of modules that ran before.
        dominated_share: Noise above this share of a tensor's value dominates it: an
            error of the tensor's own size could hide in its tolerance.
    """

    multiplier: float = 6.0
    small_tensor_elements: float = 30.0
    floor_epsilons: float = 1.0
    floor_small_tensor_elements: float = 3.0
    depth_epsilons: float = 16.0
    dominated_share: float = 0.1

    def __post_init__(self):
        for name, value in asdict(self).items():
            _check_number(value, f"{name} of the tolerance policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The largest error of one tensor that counts as rounding.

    Attributes:
        difference_norm: In units of the tensor: Frobenius norm of the difference.
            Divided by the reference's norm it is the tolerated ``rel_err``; as a norm
            it also serves tensors that are zero.
        estimator: Where it comes from.
        derivation: The same in words, with numbers.
        noise_share: The largest noise over the norm of the reference; None where it was
            neither measured nor known.
        noise_dominated: That share is too large for the tolerance to tell an error.
        measured: It rests on noise that was measured in the dtype of the candidate; not
            on dtypes alone, nor on the noise of a finer reference.
        num_noise_runs: How many noise runs it is the largest noise of; 0 where it rests
            on something else.
        least: What it is at least, whatever the multiplier, in units of the tensor.
        per_multiplier: What it grows by with each 1 of the multiplier, likewise: it is
            that times the multiplier, or ``least``. None where it is made otherwise.
    """

    difference_norm: float
    estimator: Estimator
    derivation: str
    noise_share: float | None = None
    noise_dominated: bool = False
    measured: bool = False
    num_noise_runs: int = 0
    least: float = 0.0
    per_multiplier: float | None = None

    def relative_to(self, reference_norm: float) -> float:
        """The tolerated ``rel_err`` for a reference of that norm."""
        if self.difference_norm == 0:
            return 0.0
        return self.difference_norm / reference_norm if reference_norm else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseEstimate:
    """What the perturbed runs of a reference say about one tensor.

    Attributes:
        draws: Frobenius norm of (perturbed - reference), one per perturbed run.
        reference_norm: Frobenius norm of the reference.
        parts: What makes up the tensor and has noise of its own, so that one norm would
            hide the errors of the quiet part behind the noise of the loud one; empty
            where it is all of a kind.
        profiles: How the noise is spread along its dims, where parts that are known
            only when a candidate is compared may have noise of their own.
    """

    draws: tuple[float, ...]
    reference_norm: float
    parts: tuple["PartNoise", ...] = ()
    profiles: tuple[NoiseProfile, ...] = ()

    def __post_init__(self):
        if not self.draws:
            raise ValueError("a noise estimate without draws")
        for value in (*self.draws, self.reference_norm):
            _check_number(value, "a norm of the noise estimate")

    def of_part(self, part: Part) -> "NoiseEstimate | None":
        """That of a part, by the profiles; None where they do not tell."""
        for profile in self.profiles:
            norms = profile.norms_of(part)
            if norms is not None:
                return NoiseEstimate(draws=norms[0], reference_norm=norms[1])
        return None

    @property
    def share(self) -> float:
        """The largest noise over the norm of the reference; infinite if only that is 0.

        What is zero and stays zero has no noise.
        """
        if max(self.draws) == 0:
            return 0.0
        if self.reference_norm == 0:
            return math.inf
        return max(self.draws) / self.reference_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNoise:
    """What the perturbed runs say about a part of a tensor.

    Attributes:
        part: Which part.
        noise: Its noise; without parts.
        is_untouched: No gradient reached it, in no step so far: it has no noise but the
            rounding of each step.
    """

    part: Part
    noise: NoiseEstimate
    is_untouched: bool = False

    def to_json(self) -> dict:
        return {
            "dim": self.part.dim,
            "ranges": self.part.ranges,
            "draws": self.noise.draws,
            "reference_norm": self.noise.reference_norm,
            "is_untouched": self.is_untouched,
        }

    @classmethod
    def from_json(cls, value: Mapping) -> "PartNoise":
        ranges = tuple((start, stop) for start, stop in value["ranges"])
        return cls(
            part=Part(dim=value["dim"], ranges=ranges),
            noise=NoiseEstimate(
                draws=tuple(value["draws"]), reference_norm=value["reference_norm"]
            ),
            is_untouched=value["is_untouched"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToleranceTable:
    """All that is needed to give every tensor of a comparison its tolerance.

    Attributes:
        policy: The numbers used.
        noise: Measured noise, by tensor id; empty when nothing was perturbed.
        reference_run: Run id of the reference that the noise was measured on.
        origin: What that reference was; None in files that do not say.
        noise_dtype: Dtype whose roundings the noise stands for, where coarser than
            that of the reference; else None.
    """

    policy: TolerancePolicy = field(default_factory=TolerancePolicy)
    noise: Mapping[TensorId, NoiseEstimate] = field(default_factory=dict)
    reference_run: str | None = None
    origin: Origin | None = None
    noise_dtype: str | None = None

    def tolerance_for(
        self,
        tensor_id: TensorId,
        *,
        num_elements: int,
        reference_norm: float,
        storage_dtypes: tuple[str, str],
        compute_epsilon: float,
        depth: int,
        coarser: CoarserCompute | None = None,
        noise: NoiseEstimate | None = None,
        summed: ScalarSum | None = None,
    ) -> Tolerance:
        """The tolerance of one tensor, or of a part of one.

        Args:
            tensor_id: Its identity in the reference.
            num_elements: Number of elements compared.
            reference_norm: Frobenius norm of the reference.
            storage_dtypes: Dtype names of both sides.
            compute_epsilon: Epsilon of the coarsest dtype that the runs compute in.
            depth: Number of module outputs that came before it.
            coarser: The candidate's dtype, where it is coarser than the one that the
                noise was measured in.
            noise: What was measured of the part; None for the whole tensor.
            summed: Of a scalar, what it sums up; None where that is not known.
        """
        noise = noise or self.noise.get(tensor_id)
        epsilons = [dtype_named(name).epsilon for name in storage_dtypes]
        storage_epsilon = max((e for e in epsilons if e is not None), default=0.0)
        policy = self.policy
        num_epsilons = policy.floor_epsilons * (
            1 + policy.floor_small_tensor_elements / max(num_elements, 1)
        )
        order = 0.0 if summed is None else summed.floor(storage_epsilon)
        floor = (num_epsilons * storage_epsilon + order) * reference_norm
        share = per_multiplier = None
        if tensor_id.kind is Kind.LEARNING_RATE:
            # A number that no activation has a part in: both sides round it.
            noise, compute_epsilon, depth = None, 0.0, 0
        if noise is not None:
            draws = noise.draws
            multiplier = policy.multiplier * (
                1 + policy.small_tensor_elements / max(num_elements, 1)
            )
            estimated = multiplier * max(draws)
            estimator = Estimator.PERTURBED
            share = noise.share
            per_multiplier = max(draws) * multiplier / policy.multiplier
            measured = (
                "the noise of one run"
                if len(draws) == 1
                else f"the largest of {len(draws)} noise runs"
            )
            derivation = (
                f"{multiplier:.3g} x {measured} "
                f"({_in_both_units(max(draws), reference_norm)})"
            )
            if coarser is not None:
                growth = coarser.growth(share, is_state=tensor_id.kind in _QUADRATIC)
                estimated *= growth
                share *= growth
                per_multiplier *= growth
                derivation += (
                    f" x {growth:.3g}, as the candidate computes in "
                    f"{coarser.candidate} and the noise was measured in "
                    f"{coarser.noise or coarser.reference}"
                    if coarser.factor > 1
                    else f", of roundings to {coarser.candidate}"
                )
                if tensor_id.kind in _COMPUTED:
                    least = policy.floor_epsilons * coarser.epsilon * reference_norm
                    if least > estimated:
                        derivation = (
                            f"{policy.floor_epsilons:.3g} epsilon of "
                            f"{coarser.candidate}, that the candidate computes in "
                            f"({coarser.epsilon:.3g}); above {derivation}"
                        )
                    estimated = max(estimated, least)
                    floor = max(floor, least)
        elif storage_epsilon == 0:
            return Tolerance(
                difference_norm=0.0,
                estimator=Estimator.EXACT,
                derivation="integers and booleans must be equal",
            )
        else:
            coarsest = max(compute_epsilon, storage_epsilon)
            factor = policy.depth_epsilons * math.sqrt(depth + 1)
            estimated = factor * coarsest * reference_norm
            estimator = Estimator.UNCALIBRATED
            derivation = (
                f"{policy.depth_epsilons:.3g} epsilons ({coarsest:.3g}) x sqrt of "
                f"{depth + 1} modules"
            )
        difference_norm = max(floor, estimated)
        if floor > estimated:
            more = "" if summed is None else f", and {summed.sentence}"
            derivation = (
                f"{num_epsilons:.3g} epsilon of the storage dtype "
                f"({storage_epsilon:.3g}){more}; above {derivation}"
            )
        derivation += f": {_in_both_units(difference_norm, reference_norm)}"
        return Tolerance(
            difference_norm=difference_norm,
            estimator=estimator,
            derivation=derivation,
            noise_share=share,
            noise_dominated=share is not None and share > policy.dominated_share,
            measured=estimator is Estimator.PERTURBED
            and (coarser is None or coarser.factor == 1),
            num_noise_runs=0
            if noise is None or floor > estimated
            else len(noise.draws),
            least=floor,
            per_multiplier=per_multiplier,
        )

    def save(self, path: Path | str) -> None:
        """Writes the table as JSON, into a folder that is there.

        Raises:
            UsageError: The folder does not exist.
            StorageFullError: It could not be written.
        """
        value = {
            "schema_version": SCHEMA_VERSION,
            "policy": asdict(self.policy),
            "reference_run": self.reference_run,
            "noise_dtype": self.noise_dtype,
            "origin": None if self.origin is None else asdict(self.origin),
            "noise": {
                str(tensor_id): _estimate_json(estimate)
                for tensor_id, estimate in self.noise.items()
            },
        }
        write_output(Path(path), json.dumps(value, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "ToleranceTable":
        """Reads what ``save`` wrote.

        Raises:
            TraceNotFoundError: There is no such file.
            SchemaVersionError: It was written in another format.
            TraceError: It is not a tolerance file.
        """
        remedy = "make it again with 'ttrace tolerance'"
        value = read_document(path, "a tolerance file", remedy=remedy)
        try:
            version = value["schema_version"]
            if version != SCHEMA_VERSION:
                raise SchemaVersionError(
                    "a tolerance file of another version",
                    where=path,
                    expected=f"schema version {SCHEMA_VERSION}",
                    got=version,
                    remedy=remedy,
                )
            return cls(
                policy=TolerancePolicy(**value["policy"]),
                reference_run=value["reference_run"],
                noise_dtype=value.get("noise_dtype"),
                origin=Origin.from_json(value["origin"])
                if value.get("origin")
                else None,
                noise={
                    parse_tensor_id(text): _estimate_from_json(estimate)
                    for text, estimate in value["noise"].items()
                },
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise TraceError(
                "not a whole tolerance file",
                where=path,
                got=f"{type(error).__name__}: {error}",
                remedy=remedy,
            ) from error


def _estimate_json(estimate: NoiseEstimate) -> dict:
    value: dict = {"draws": estimate.draws, "reference_norm": estimate.reference_norm}
    if estimate.parts:
        value["parts"] = [part.to_json() for part in estimate.parts]
    if estimate.profiles:
        value["profiles"] = [profile.to_json() for profile in estimate.profiles]
    return value


def _estimate_from_json(value: Mapping) -> NoiseEstimate:
    return NoiseEstimate(
        draws=tuple(value["draws"]),
        reference_norm=value["reference_norm"],
        parts=tuple(map(PartNoise.from_json, value.get("parts", ()))),
        profiles=tuple(map(NoiseProfile.from_json, value.get("profiles", ()))),
    )


def _in_both_units(difference_norm: float, reference_norm: float) -> str:
    """In the tensor's units, and relative to the reference: ``3e-05, rel 2e-06``."""
    if not reference_norm:
        return f"{difference_norm:.3g}"
    return f"{difference_norm:.3g}, rel {difference_norm / reference_norm:.3g}"


def _check_number(value: float, what: str) -> None:
    """A NaN among the numbers would let every error pass."""
    if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
        raise ValueError(f"{what} is {value!r}, not a number of at least 0")
