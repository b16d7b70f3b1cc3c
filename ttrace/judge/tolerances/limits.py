"""What each tensor is tolerated: one answer, whoever asks.

``compare`` judges two runs by it, and ``replicas`` the replicas within one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo
from ttrace.judge.tolerances.precision import (
    CoarserCompute,
    coarser_compute,
    product_dtype,
)
from ttrace.judge.tolerances.scalar_sums import ScalarSum
from ttrace.judge.tolerances.setup import SETUP_TOLERANCE, first_step, is_given
from ttrace.judge.tolerances.tolerance import NoiseEstimate, Tolerance, ToleranceTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All that the tolerances of a comparison depend on.

    Attributes:
        tolerances: What rounding explains.
        compute_epsilon: Epsilon of the coarsest dtype of any run's outputs.
        first_step: The first step of any run; None for checkpoints, whose parameters
            no run was given.
        coarser: What to make of noise that was measured in a finer dtype than the
            candidate computes in; None if it does not.
        may_round_inputs: Scripts of two frameworks may compute what they give the
            model, such as noised samples: numbers of it are the same but for rounding.
    """

    tolerances: ToleranceTable
    compute_epsilon: float
    first_step: int | None
    coarser: CoarserCompute | None = None
    may_round_inputs: bool = False

    @classmethod
    def of_runs(
        cls,
        tolerances: ToleranceTable,
        tensor_ids: Iterable[TensorId],
        *infos: TraceInfo,
    ) -> "Limits":
        """The limits of runs.

        Args:
            tolerances: What rounding explains.
            tensor_ids: Of all that is judged.
            infos: The runs: reference and candidate, or one with itself.
        """
        return cls(
            tolerances=tolerances,
            compute_epsilon=max(map(compute_epsilon_of, infos)),
            first_step=first_step(tensor_ids, *infos),
            coarser=coarser_compute(
                infos[0], infos[-1], noise_dtype=tolerances.noise_dtype
            ),
            may_round_inputs=len({info.ranks[0].framework for info in infos}) > 1,
        )

    def is_given(self, tensor_id: TensorId) -> bool:
        """Whether it belongs to what the runs were given."""
        return is_given(tensor_id, self.first_step)

    def tolerance_of(
        self,
        tensor_id: TensorId,
        *,
        measured_as: TensorId,
        num_elements: int,
        reference_norm: float,
        dtypes: tuple[str, str],
        depth: int,
        may_be_computed: bool = False,
        noise: NoiseEstimate | None = None,
        summed: ScalarSum | None = None,
    ) -> Tolerance:
        """What one tensor is tolerated, or a part of one.

        Args:
            tensor_id: The tensor that is judged.
            measured_as: What the reference calls it, as the noise was measured there.
            num_elements: Number of elements compared.
            reference_norm: Frobenius norm of what it is compared with.
            dtypes: Dtype names of both sides.
            depth: Number of module outputs that came before it.
            may_be_computed: What looks given may be a result of the model, such as a
                state that a script carries over: it is tolerated as one.
            noise: What was measured of the part; None for the whole tensor.
            summed: Of a scalar, what it sums up; None where that is not known.
        """
        may_be_computed |= self.may_round_inputs and tensor_id.kind is Kind.INPUT
        if not may_be_computed and self.is_given(tensor_id) and dtypes[0] == dtypes[1]:
            return SETUP_TOLERANCE
        return self.tolerances.tolerance_for(
            measured_as,
            num_elements=num_elements,
            reference_norm=reference_norm,
            storage_dtypes=dtypes,
            compute_epsilon=self.compute_epsilon,
            depth=depth,
            coarser=self.coarser,
            noise=noise,
            summed=summed,
        )


def epsilon_of(dtype: str | None) -> float:
    """Epsilon of a dtype by its name; 0 for none."""
    return 0.0 if dtype is None else dtype_named(dtype).epsilon or 0.0


def compute_epsilon_of(info: TraceInfo) -> float:
    """Epsilon of the coarsest dtype among the outputs of a run, or of its products."""
    outputs = {
        shard.dtype
        for record in info.tensors.values()
        if record.id.kind is Kind.OUTPUT
        for shard in record.shards
    }
    epsilons = [dtype_named(name).epsilon for name in outputs]
    epsilons.append(epsilon_of(product_dtype(info)))
    return max((e for e in epsilons if e is not None), default=0.0)
