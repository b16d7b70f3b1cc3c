"""Whether a reference repeats itself; one that does not cannot be judged by.

Noise runs tell only so much: a dropout mask that is drawn anew in every run looks like
noise, and the tolerances that it gives let wrong values pass. What noise cannot change
is compared with the noise runs (``require_same_start``). Whether any noise is larger
than rounding explains is told by ``first_suspect``; a second run without noise then
decides (``require_repeats``). Where no noise is, what a reference fails to repeat is
too small to hide anything, and the noise runs have measured it.
"""

from collections.abc import Iterable
from dataclasses import replace

from ttrace.compare.align import Alignment, Skipped, align
from ttrace.compare.backend import Backend
from ttrace.compare.execute import Progress, TensorResult, run_plan
from ttrace.compare.indexed import plan_rows
from ttrace.compare.plan import plan_comparison
from ttrace.errors import UnrepeatableError
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import KINDS, Kind, Phase
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerances.limits import Limits, epsilon_of
from ttrace.judge.tolerances.tolerance import ToleranceTable

_INJECTED_EPSILONS = 4.0
"""What noise may change of an input that is itself the first to get noise."""

_UNDETERMINED = (
    "Usual causes are random numbers without a fixed seed (dropout), memory that is "
    "read before it is written, and atomic additions on a device "
)

_DETERMINED = {"jax": "(XLA_FLAGS=--xla_gpu_deterministic_ops=true)"}
_DETERMINED_ELSE = "(torch.use_deterministic_algorithms(True))"

_UNSEEDED = (
    "Seed the random numbers before the model is built, or load its parameters from a "
    "file"
)

_OTHER_DATA = (
    "Give it the same data in every run: a fixed order, a seed for shuffling and for "
    "what is drawn at random"
)


def require_same_start(
    results: Iterable[TensorResult],
    reference: TraceSource,
    noise_run: TraceSource,
) -> None:
    """Refuses a reference that starts from other parameters or data in a noise run.

    No noise reaches parameters before the first step, nor data that are integers.

    Raises:
        UnrepeatableError: Such a tensor differs.
    """
    limits = _rounding(reference.info, noise_run.info)
    for result in results:
        if not (result.stats.num_unequal or result.plan.shapes_differ):
            continue
        record = result.plan.match.reference
        if limits.is_given(record.id) and (
            record.id.kind is not Kind.INPUT
            or _epsilon(record) is None
            or result.plan.shapes_differ
        ):
            raise _refusal(result.plan.id, _difference(result), reference, noise_run)


def first_suspect(
    tolerances: ToleranceTable, reference: TraceInfo
) -> tuple[TensorId, float] | None:
    """The first tensor whose noise is more than rounding explains, with its share.

    It may be noise all the same, as where tokens are routed elsewhere. What is drawn at
    random is drawn in the forward and shows there; gradients, some of which are zero
    but for rounding, are only asked where no outputs were recorded.
    """
    has_outputs = any(id_.kind is Kind.OUTPUT for id_ in tolerances.noise)
    limits = _rounding(reference, reference)
    of_noise = epsilon_of(tolerances.noise_dtype)
    limits = replace(limits, compute_epsilon=max(limits.compute_epsilon, of_noise))
    depth = 0
    for record in reference.tensors.values():
        if record.id.kind is Kind.OUTPUT:
            depth += 1
        noise = tolerances.noise.get(record.id)
        if noise is None or record.id.is_index or not max(noise.draws):
            continue
        epsilon = _epsilon(record)
        is_forward = KINDS[record.id.kind].phase is Phase.FORWARD
        if limits.is_given(record.id) and epsilon is not None:
            explained = _INJECTED_EPSILONS * max(epsilon, of_noise)
            explained *= noise.reference_norm
        elif has_outputs and not is_forward:
            continue
        elif epsilon is None or record.id.step == limits.first_step and is_forward:
            explained = min(
                _rounding_of(record, limits, noise.reference_norm, depth),
                tolerances.policy.dominated_share * noise.reference_norm,
            )
        else:
            explained = tolerances.policy.dominated_share * noise.reference_norm
        if max(noise.draws) > explained:
            return record.id, noise.share
    return None


def require_repeats(
    reference: TraceSource,
    again: TraceSource,
    backend: Backend,
    *,
    progress: Progress | None = None,
) -> None:
    """Refuses a reference whose second run computes other values.

    Rounding may differ, as where a device adds in another order: the first tensor that
    differs must do so by the rounding of one operation, and what follows in a forward
    by what its depth explains.

    Args:
        reference: The trusted run.
        again: The same command once more, without noise either.
        backend: Computes the statistics.
        progress: Called as the comparison proceeds.

    Raises:
        UnrepeatableError: It does not repeat itself.
    """
    alignment = align(reference.info, again.info)
    plan = plan_comparison(alignment.matches, reference.info, again.info)
    plan = plan_rows(plan, reference, again)
    results = {
        result.plan.id: result
        for result in run_plan(plan, reference, again, backend, progress=progress)
    }
    found = _first_difference(alignment, results, _rounding(reference.info, again.info))
    if found is not None:
        raise _refusal(*found, reference, again)


def _first_difference(
    alignment: Alignment, results: dict[TensorId, TensorResult], limits: Limits
) -> tuple[TensorId, str] | None:
    """The first tensor that rounding does not explain, and how it differs."""
    depth, is_first = 0, True
    for entry in alignment.entries:
        if entry.id.kind is Kind.OUTPUT:
            depth += 1
        if isinstance(entry, Skipped):
            continue
        result = results.get(entry.id)
        if result is None:
            return entry.id, "recorded in one of two runs only"
        if result.plan.shapes_differ:
            return entry.id, _difference(result)
        stats = result.stats
        if not stats.num_unequal:
            continue
        is_forward = KINDS[entry.id.kind].phase in (Phase.START, Phase.FORWARD)
        record = result.plan.match.reference
        given = limits.is_given(entry.id)
        is_float = _epsilon(record) is not None
        explained = 0.0
        if not given and (is_float or not is_first):
            explained = _rounding_of(
                record, limits, stats.reference_norm, 0 if is_first else depth
            )
            if is_first:
                share = limits.tolerances.policy.dominated_share
                explained = min(explained, share * stats.reference_norm)
        rounded_before = not is_first and (not is_forward or not is_float)
        if not rounded_before and stats.difference_norm > explained:
            return entry.id, _difference(result)
        is_first = False
    return None


def _rounding(*infos: TraceInfo) -> Limits:
    """What dtype and depth explain, of two runs of the same command."""
    ids = (tensor_id for info in infos for tensor_id in info.tensors)
    return Limits.of_runs(ToleranceTable(), ids, *infos)


def _rounding_of(
    record: TensorRecord, limits: Limits, reference_norm: float, depth: int
) -> float:
    dtype = record.shards[0].dtype
    return limits.tolerances.tolerance_for(
        record.id,
        num_elements=1,
        reference_norm=reference_norm,
        storage_dtypes=(dtype, dtype),
        compute_epsilon=limits.compute_epsilon,
        depth=depth,
    ).difference_norm


def _epsilon(record: TensorRecord) -> float | None:
    return dtype_named(record.shards[0].dtype).epsilon


def _difference(result: TensorResult) -> str:
    match = result.plan.match
    if result.plan.shapes_differ:
        return (
            f"shape {list(match.reference.global_shape)} in one run, "
            f"{list(match.candidate.global_shape)} in the other"
        )
    stats = result.stats
    return f"{stats.num_unequal} of {stats.count} values differ, by {stats.rel_err:.3g}"


def _refusal(
    tensor_id: TensorId, got: str, reference: TraceSource, other: TraceSource
) -> UnrepeatableError:
    if tensor_id.kind in (Kind.PARAM, Kind.BUFFER):
        cause = _UNSEEDED
    elif _rounding(reference.info).is_given(tensor_id):
        cause = _OTHER_DATA
    else:
        framework = reference.info.ranks[0].framework
        cause = _UNDETERMINED + _DETERMINED.get(framework, _DETERMINED_ELSE)
    return UnrepeatableError(
        "the reference does not repeat itself, so no tolerance can be measured",
        where=f"{tensor_id}, the first tensor that differs between {reference.name} "
        f"and {other.name}",
        expected="the same values in every run of the same command",
        got=got,
        remedy=f"make the reference repeat itself. {cause}",
    )
