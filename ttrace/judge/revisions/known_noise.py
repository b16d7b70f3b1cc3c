"""Noise that is known without noise runs: sums that cancel, and what Adam makes of it.

A gradient that is zero in mathematics (of the bias of keys in an attention, for one)
is nothing but rounding, and an optimizer such as Adam makes a whole update of either
sign out of every such element. Noise runs measure that. Where there were none, it
follows from the other gradients of the same module, which are sums over the same
tokens, and from what the reference's own step changed at most.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttrace.compare.backend import Backend
from ttrace.compare.parts import Part, mask_of
from ttrace.compare.stats import PairStats
from ttrace.ir.averages import averaged_parameter
from ttrace.ir.kinds import ACTIVATIONS, GRADIENTS, Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.revisions.excuse import excused
from ttrace.judge.revisions.turned_updates import is_made_of_updates
from ttrace.judge.tolerances.tolerance import Estimator, Tolerance, TolerancePolicy
from ttrace.judge.verdicts.updates import changes_in_step
from ttrace.judge.verdicts.verdict import Cause, Status, TensorVerdict

_OF_PARAMETERS = GRADIENTS - ACTIVATIONS


def excuse_known_noise(
    verdicts: Sequence[TensorVerdict], known: "KnownNoise"
) -> tuple[TensorVerdict, ...]:
    """Lets pass what failed a tolerance that was not measured, and is known as noise.

    That is an uncalibrated one, or one that was measured in a finer dtype than the
    candidate computes in: an update of either sign does not grow with the noise.

    Args:
        verdicts: One per tensor.
        known: The noise that is known.
    """
    return tuple(
        known.excused(verdict) if _may_be_noise(verdict) else verdict
        for verdict in verdicts
    )


def _may_be_noise(verdict: TensorVerdict) -> bool:
    return (
        verdict.status is Status.FAILED
        and verdict.cause is Cause.ERROR
        and verdict.tolerance is not None
        and _is_estimated(verdict.tolerance)
    )


def _is_estimated(tolerance: Tolerance) -> bool:
    """Whether it is a tolerance for roundings, and these were not measured as such."""
    return not tolerance.measured and tolerance.estimator is not Estimator.EXACT


class KnownNoise:
    """How large the known noise of each tensor is, as a Frobenius norm.

    Args:
        verdicts: One per tensor, by tolerance alone.
        reference: The trusted run; read when asked for what failed.
        backend: Computes the statistics.
        policy: Says how much noise dominates a tensor.
    """

    def __init__(
        self,
        verdicts: Sequence[TensorVerdict],
        reference: TraceSource,
        backend: Backend,
        policy: TolerancePolicy,
    ):
        self._dominated_share = policy.dominated_share
        self._reference = reference
        self._backend = backend
        self._verdicts = {verdict.id: verdict for verdict in verdicts}
        self._levels: dict[TensorId, float] = {}
        self._updated: dict[tuple[int, str], list[TensorId]] = {}
        self._noise_of_steps: dict[tuple[TensorId, Part | None], float] = {}
        self._changes: dict[TensorId, PairStats] = {}
        for verdict in verdicts:
            if verdict.id.kind is Kind.UPDATED_PARAM:
                of_module = (verdict.id.step, verdict.id.module)
                self._updated.setdefault(of_module, []).append(verdict.id)
            if verdict.id.kind in _OF_PARAMETERS:
                group = replace(verdict.id, slot=None)
                level = max(self._levels.get(group, 0.0), _level(verdict))
                self._levels[group] = level

    def excused(self, verdict: TensorVerdict) -> TensorVerdict:
        """The verdict, passed if its error is no larger than the known noise."""
        kind = verdict.id.kind
        if kind in _OF_PARAMETERS:
            norm = self._of_gradient(verdict.id)
            what = "rounding of sums as large as its module's other gradients"
        elif is_made_of_updates(verdict.id):
            updated = averaged_parameter(verdict.id) or verdict.id
            norm = self._of_update(updated)
            what = "updates made of gradients that are rounding"
            followed = self._of_followed(updated, verdict)
            if followed:
                norm += followed
                what += (
                    f", {followed:.3g} of it for updates that are as far off as their "
                    "gradients may be, which a finer run may round away"
                )
        elif kind is Kind.OPTIMIZER_STATE:
            norm = self._of_state(verdict)
            what = "rounding of a gradient that is a sum of larger terms"
        elif kind is Kind.OUTPUT:
            norm = self._of_output(verdict)
            what = "a bias whose updates are made of gradients that are rounding"
        else:
            return verdict
        return excused(verdict, norm, what, dominated_share=self._dominated_share)

    def updates_of_part(self, updated: TensorId, part: Part, norm: float) -> Tolerance:
        """What a part of an updated parameter is tolerated where nothing was measured.

        Args:
            updated: The parameter after a step; it has a verdict with a tolerance.
            part: The part.
            norm: Frobenius norm of the reference's part.
        """
        verdict = self._verdicts[updated]
        assert verdict.result is not None and verdict.tolerance is not None
        whole = verdict.result.stats.reference_norm
        of_dtype = verdict.tolerance.relative_to(whole) * norm if whole else 0.0
        of_updates = sum(
            self._of_step(replace(updated, step=step), part)
            for step in range(updated.step + 1)
        )
        return replace(
            verdict.tolerance,
            difference_norm=of_dtype + of_updates,
            derivation=f"the part's share of {verdict.tolerance.derivation}, and "
            f"{of_updates:.3g} for updates made of gradients that are rounding",
        )

    def _of_gradient(self, gradient: TensorId) -> float:
        verdict = self._verdicts.get(gradient)
        if verdict is None or verdict.result is None:
            return 0.0
        level = self._levels.get(replace(gradient, slot=None), 0.0)
        return level * math.sqrt(verdict.result.stats.count)

    def _of_state(self, verdict: TensorVerdict) -> float:
        """Of a state that is linear or quadratic in the gradient."""
        gradient = self._gradient_of_state(verdict.id)
        if gradient is None or verdict.result is None:
            return 0.0
        of_gradient = self._verdicts[gradient].result
        assert of_gradient is not None
        norm = of_gradient.stats.reference_norm
        share = self._of_gradient(gradient) / norm if norm else math.inf
        return (2 * share + share * share) * verdict.result.stats.reference_norm

    def _gradient_of_state(self, state: TensorId) -> TensorId | None:
        """``bias.exp_avg`` is of the parameter ``bias``."""
        slot = state.slot or ""
        while "." in slot:
            slot = slot.rpartition(".")[0]
            gradient = replace(state, kind=Kind.MAIN_GRAD, slot=slot)
            found = self._verdicts.get(gradient)
            if found is not None and found.result is not None:
                return gradient
        return None

    def _of_update(self, updated: TensorId) -> float:
        """Of a parameter after a step: what all steps so far made of noise.

        An update of either sign: two of them apart at most.
        """
        return sum(
            self._of_step(replace(updated, step=step))
            for step in range(updated.step + 1)
        )

    def _of_followed(self, updated: TensorId, verdict: TensorVerdict) -> float:
        """Of updates that are relatively as far off as their gradients are tolerated.

        Of all steps so far, where the noise was measured in a finer dtype. What is less
        than the last digit of a parameter is lost in its noise, however much larger it
        is in the coarser one.
        """
        assert verdict.tolerance is not None
        if verdict.tolerance.estimator is not Estimator.PERTURBED:
            return 0.0
        return sum(
            self._tolerated_share(of_step) * self._change(of_step).difference_norm
            for step in range(updated.step + 1)
            for of_step in (replace(updated, step=step),)
        )

    def _tolerated_share(self, updated: TensorId) -> float:
        """How far a gradient may be off, relatively; 0 where it is not known, or is."""
        shares = [0.0]
        for kind in (Kind.MAIN_GRAD, Kind.CLIPPED_GRAD):
            found = self._verdicts.get(replace(updated, kind=kind))
            if found is None or found.result is None or found.tolerance is None:
                continue
            norm = found.result.stats.reference_norm
            if found.status is not Status.PASSED or not norm:
                return 0.0
            shares.append(found.tolerance.relative_to(norm))
        return min(1.0, max(shares))

    def _of_step(self, updated: TensorId, part: Part | None = None) -> float:
        """Of the update of one step alone."""
        if (updated, part) not in self._noise_of_steps:
            gradient = replace(updated, kind=Kind.MAIN_GRAD)
            num_noise = self._num_noise_elements(gradient, part)
            self._noise_of_steps[updated, part] = (
                2 * self._change(updated).max_abs_diff * math.sqrt(num_noise)
                if num_noise
                else 0.0
            )
        return self._noise_of_steps[updated, part]

    def _change(self, updated: TensorId) -> PairStats:
        """What a step of the reference changes a parameter by; none if not known."""
        if updated not in self._changes:
            found = changes_in_step([updated], self._reference, self._backend)
            self._changes[updated] = found.get(updated, PairStats())
        return self._changes[updated]

    def _num_noise_elements(self, gradient: TensorId, part: Part | None) -> int:
        """Elements of a gradient in the reference that are no larger than rounding."""
        level = self._levels.get(replace(gradient, slot=None), 0.0)
        record = self._reference.info.tensors.get(gradient)
        if not level or record is None:
            return 0
        num_noise = num_elements = 0
        for shard in record.shards:
            values = np.abs(self._reference.load(shard).astype(np.float64))
            is_noise = values <= level * abs(shard.scale)
            # Which elements of a flat range are of a part is not told: all may be.
            if part is not None and not shard.layout.is_flat:
                is_noise &= mask_of(shard.layout, part)
            num_noise += int(is_noise.sum())
            num_elements += values.size
        size = math.prod(record.global_shape)
        return math.ceil(num_noise * size / num_elements) if num_elements else 0

    def _of_output(self, verdict: TensorVerdict) -> float:
        """Of what a module puts out whose bias was updated by noise in a step before.

        Every row of the output has the bias's own difference.
        """
        id_, result = verdict.id, verdict.result
        shape = () if result is None else result.plan.match.reference.global_shape
        if not id_.step or not shape:
            return 0.0
        num_rows = math.prod(shape[:-1])
        biases = [
            updated
            for updated in self._updated.get((id_.step - 1, id_.module), ())
            if self._shape(updated) == shape[-1:]
        ]
        return sum(map(self._of_update, biases)) * math.sqrt(num_rows)

    def _shape(self, tensor_id: TensorId) -> tuple[int, ...] | None:
        record = self._reference.info.tensors.get(tensor_id)
        return None if record is None else record.global_shape


def _level(verdict: TensorVerdict) -> float:
    """What rounding may make of every element, by the tolerance of this gradient."""
    if (
        verdict.result is None
        or verdict.tolerance is None
        or not _is_estimated(verdict.tolerance)
    ):
        return 0.0
    count = verdict.result.stats.count
    return verdict.tolerance.difference_norm / math.sqrt(count) if count else 0.0
