"""Measures the noise of the parts of a tensor, where one of them is far louder.

Parts show in the noise itself: ranges of indices, the same ranges of every head or
group, rows that no gradient reached. Which else there are is known when a candidate is
compared; for these the noise is kept index by index.

Only tensors are read again whose noise is large enough to hide something: elsewhere
parts are tolerated hardly less than the whole.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.backend import Backend
from ttrace.compare.execute import TensorResult, read_blocks, run_parts
from ttrace.compare.operands import PairPlan
from ttrace.compare.parts import Part, equal_blocks
from ttrace.compare.plan import TensorPlan
from ttrace.compare.stats import PairStats
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerances.index_noise import noise_by_index
from ttrace.judge.tolerances.noise_profile import NoiseProfile
from ttrace.judge.tolerances.quiet_parts import LEAST_RATIO, BlockNoise, find_quiet_part
from ttrace.judge.tolerances.tolerance import NoiseEstimate, PartNoise

_MAX_BLOCKS = 96
"""Blocks along a dim. A multiple of 3: query, key and value are often joined."""

_MAX_GROUP = 4096
"""Indices of a group, of the equal ones that a dim may be made of."""

_MAX_PROFILE = 512
"""Blocks of a dim whose noise is kept."""

_CLEARLY_MORE = 1.5
"""How much more of the noise the parts of groups must tell apart than one range does;
that is the simpler description."""

_MAX_RANGES = 8192
"""Ranges of rows that a part is made of at most."""

_KINDS = (GRADIENTS - ACTIVATIONS) | {Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM}
"""What is made of parameters, which are joined where activations are not."""

NoiseRun = tuple[TraceSource, Mapping[TensorId, TensorResult]]
"""A noise run, and how it differs from the reference."""


def measure_parts(
    noise: Mapping[TensorId, NoiseEstimate],
    reference: TraceSource,
    runs: Sequence[NoiseRun],
    backend: Backend,
    *,
    compute_epsilon: float,
) -> dict[TensorId, NoiseEstimate]:
    """The same noise, with that of parts where it is not all of a kind.

    Args:
        noise: Of whole tensors.
        reference: The trusted run.
        runs: Its noise runs, with every tensor that has noise.
        backend: Computes the statistics.
        compute_epsilon: Epsilon of the coarsest dtype that the runs compute in.
    """
    measured = dict(noise)
    for tensor_id, estimate in noise.items():
        if _may_hide(tensor_id, estimate, runs, compute_epsilon):
            measurement = _Measurement(
                tensor_id, reference, runs, backend, compute_epsilon
            )
            measured[tensor_id] = replace(
                estimate, parts=measurement.parts(), profiles=measurement.profiles()
            )
    return measured


def _may_hide(
    tensor_id: TensorId,
    estimate: NoiseEstimate,
    runs: Sequence[NoiseRun],
    compute_epsilon: float,
) -> bool:
    if tensor_id.kind not in _KINDS:
        return False
    plan = runs[0][1][tensor_id].plan
    epsilon = dtype_named(plan.match.reference.shards[0].dtype).epsilon
    if epsilon is None or plan.rows is not None:
        return False
    least = LEAST_RATIO * max(epsilon, compute_epsilon)
    return max(estimate.draws) > least * estimate.reference_norm


class _Measurement:
    """Of one tensor."""

    def __init__(
        self,
        tensor_id: TensorId,
        reference: TraceSource,
        runs: Sequence[NoiseRun],
        backend: Backend,
        compute_epsilon: float,
    ):
        self._id = tensor_id
        self._reference = reference
        self._runs = runs
        self._backend = backend
        record = runs[0][1][tensor_id].plan.match.reference
        self._shape = record.global_shape
        epsilon = dtype_named(record.shards[0].dtype).epsilon
        assert epsilon is not None, "what has no epsilon hides nothing"
        self._epsilon = max(epsilon, compute_epsilon)
        self._by_index = noise_by_index(
            [(trace, results[tensor_id].plan) for trace, results in runs], reference
        )

    def profiles(self) -> tuple[NoiseProfile, ...]:
        """Along the dims whose indices differ enough in noise to hide something."""
        profiles = []
        for dim, noise in enumerate(self._by_index):
            length = self._shape[dim]
            block_length = next(
                n
                for n in range(1, length + 1)
                if length % n == 0 and length // n <= _MAX_PROFILE
            )
            blocks = noise.pooled((length // block_length, block_length), axis=1)
            floors = self._epsilon * blocks.reference_norms
            levels = np.maximum(blocks.norms.max(axis=0), floors)
            if len(levels) > 1 and levels.max() > LEAST_RATIO * levels.min():
                profiles.append(
                    NoiseProfile.of(
                        dim=dim,
                        block_length=block_length,
                        draws=blocks.norms,
                        reference_norms=blocks.reference_norms,
                    )
                )
        return tuple(profiles)

    def parts(self) -> tuple[PartNoise, ...]:
        """A quiet part and the rest; empty where the noise is all of a kind."""
        return self._untouched_rows() or self._quiet_indices()

    def _quiet_indices(self) -> tuple[PartNoise, ...]:
        """Ranges of a dim, or of each of its groups where that tells more apart."""
        best, largest = self._quiet_blocks()
        of_groups = self._quiet_in_groups()
        if of_groups[1] > _CLEARLY_MORE * largest:
            best = of_groups[0]
        return () if best is None else self._split(*best, is_untouched=False)

    def _quiet_blocks(self) -> tuple[tuple[int, np.ndarray] | None, float]:
        """The dim, its quiet indices (bool), and how much louder the others are."""
        best, largest = None, 0.0
        for dim, length in enumerate(self._shape):
            blocks = equal_blocks(dim, length, max_blocks=_MAX_BLOCKS)
            found = find_quiet_part(self._noise_of(blocks)) if blocks else None
            if found is not None and found[1] > largest:
                is_quiet, largest = found
                best = dim, np.repeat(is_quiet, length // len(blocks))
        return best, largest

    def _quiet_in_groups(self) -> tuple[tuple[int, np.ndarray] | None, float]:
        """The same, of a dim made of equal groups that are all alike, such as heads.

        Of each group the same indices are pooled.
        """
        best, largest = None, 0.0
        for dim, noise in enumerate(self._by_index):
            length = self._shape[dim]
            for size in range(2, min(length // 2, _MAX_GROUP) + 1):
                if length % size:
                    continue
                pooled = noise.pooled((length // size, size), axis=0)
                found = find_quiet_part(
                    BlockNoise(
                        block_length=length // size,
                        count=math.prod(self._shape) // size,
                        norms=pooled.norms,
                        maxima=pooled.maxima,
                        floors=self._epsilon * pooled.reference_norms,
                    )
                )
                if found is not None and found[1] > largest:
                    is_quiet, largest = found
                    best = dim, np.tile(is_quiet, length // size)
        return best, largest

    def _noise_of(self, blocks: Sequence[Part]) -> BlockNoise:
        stats = [self._compare(run, blocks) for run in self._runs]
        start, stop = blocks[0].ranges[0]
        return BlockNoise(
            block_length=stop - start,
            count=stats[0][0].count,
            norms=np.array([[s.difference_norm for s in row] for row in stats]),
            maxima=np.array([[s.max_abs_diff for s in row] for row in stats]),
            floors=np.array([self._epsilon * s.reference_norm for s in stats[0]]),
        )

    def _untouched_rows(self) -> tuple[PartNoise, ...]:
        """Of a table or a stack of experts: the rows that no gradient has reached."""
        if self._id.kind is not Kind.UPDATED_PARAM or len(self._shape) < 2:
            return ()
        is_touched = np.zeros(self._shape[0], bool)
        for step in range(self._id.step + 1):
            gradient = replace(self._id, kind=Kind.MAIN_GRAD, step=step)
            results = [run[1].get(gradient) for run in self._runs]
            for (trace, _), result in zip(self._runs, results, strict=True):
                if result is None or result.plan.rows is not None:
                    return ()
                if result.plan.match.reference.global_shape != self._shape:
                    return ()
                is_touched |= _rows_with_values(result.plan, self._reference, trace)
        if is_touched.all() or not is_touched.any():
            return ()
        parts = self._split(0, ~is_touched, is_untouched=True)
        if not parts or max(parts[0].noise.draws) > (
            self._epsilon * parts[0].noise.reference_norm
        ):
            return ()
        return parts

    def _split(
        self, dim: int, is_quiet: np.ndarray, *, is_untouched: bool
    ) -> tuple[PartNoise, ...]:
        chosen = [
            Part.of_indices(dim, np.flatnonzero(mask)) for mask in (is_quiet, ~is_quiet)
        ]
        if any(len(part.ranges) > _MAX_RANGES for part in chosen):
            return ()
        stats = [self._compare(run, chosen) for run in self._runs]
        return tuple(
            PartNoise(
                part=part,
                noise=NoiseEstimate(
                    draws=tuple(row[number].difference_norm for row in stats),
                    reference_norm=stats[0][number].reference_norm,
                ),
                is_untouched=is_untouched and number == 0,
            )
            for number, part in enumerate(chosen)
        )

    def _compare(self, run: NoiseRun, parts: Sequence[Part]) -> list[PairStats]:
        trace, results = run
        plan = results[self._id].plan
        return run_parts(
            [(plan, part) for part in parts], self._reference, trace, self._backend
        )


def _rows_with_values(
    plan: TensorPlan, reference: TraceSource, noise_run: TraceSource
) -> np.ndarray:
    """bool, ``[rows]``: where a tensor is not zero, in either run."""
    (num_rows, *_) = plan.match.reference.global_shape
    has_values = np.zeros(num_rows, bool)
    for start, values in _blocks(plan, reference, noise_run):
        flat = values.reshape(values.shape[0], math.prod(values.shape[1:]))
        has_values[start : start + len(flat)] |= (flat != 0).any(axis=1)
    return has_values


def _blocks(
    plan: TensorPlan, reference: TraceSource, noise_run: TraceSource
) -> Iterator[tuple[int, np.ndarray]]:
    for pair in plan.pairs:
        if isinstance(pair, PairPlan):
            start = pair.region.start[0]
            yield start, read_blocks(pair.reference, pair.region, reference)
            yield start, read_blocks(pair.candidate, pair.region, noise_run)
