"""The device meshes of a Megatron run, and which runs this version can describe."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import megatron.core
from megatron.core import parallel_state

from ttrace.errors import UsageError
from ttrace.ir.layout import Mesh

DENSE = "dense"
"""The mesh of everything but experts: pp, dp, cp, tp, outermost first."""

EXPERT = "expert"
"""The mesh of expert parameters over the same ranks: pp, edp, ep, etp."""

_DENSE_AXES = {
    "pp": "pipeline_model",
    "dp": "data",
    "cp": "context",
    "tp": "tensor_model",
}
_EXPERT_AXES = {
    "pp": "pipeline_model",
    "edp": "expert_data",
    "ep": "expert_model",
    "etp": "expert_tensor",
}
"""Axes, outermost first, and how the functions of parallel_state call them."""

TESTED_VERSIONS = ("0.15.3", "0.16.1")
"""Versions of megatron-core whose names, hooks and layouts have been verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronMeshes:
    """Where one rank stands on both meshes.

    Attributes:
        dense: Mesh ``dense``.
        expert: Mesh ``expert``; of the same number of ranks.
    """

    dense: Mesh
    expert: Mesh

    def __post_init__(self):
        num_dense = math.prod(self.dense.sizes.values())
        num_expert = math.prod(self.expert.sizes.values())
        if num_dense != num_expert:
            raise UsageError(
                "the meshes of dense and of expert parameters differ in size",
                expected=f"{num_dense} ranks: {dict(self.dense.sizes)}",
                got=f"{num_expert} ranks: {dict(self.expert.sizes)}",
                remedy="check the sizes given to initialize_model_parallel",
            )

    @property
    def tp(self) -> int:
        """Tensor-parallel size of everything but experts."""
        return self.dense.sizes["tp"]

    @property
    def dp(self) -> int:
        """Data-parallel size."""
        return self.dense.sizes["dp"]

    @property
    def cp(self) -> int:
        """Context-parallel size."""
        return self.dense.sizes["cp"]

    @property
    def pp(self) -> int:
        """Number of pipeline ranks."""
        return self.dense.sizes["pp"]


def meshes_of_this_rank() -> MegatronMeshes:
    """Reads the meshes from Megatron's parallel state.

    Raises:
        UsageError: Model parallelism is not initialized.
    """
    if not parallel_state.model_parallel_is_initialized():
        raise UsageError(
            "Megatron's model parallelism is not initialized",
            where="parallel_state",
            remedy="call initialize_model_parallel before the trace begins",
        )
    return MegatronMeshes(
        dense=_read_mesh(DENSE, _DENSE_AXES, uniform_axes=("cp", "tp")),
        expert=_read_mesh(EXPERT, _EXPERT_AXES, uniform_axes=("etp",)),
    )


def _read_mesh(
    name: str, axes: Mapping[str, str], *, uniform_axes: tuple[str, ...]
) -> Mesh:
    def read(axis: str, what: str) -> int:
        return getattr(parallel_state, f"get_{axes[axis]}_parallel_{what}")()

    return Mesh(
        name=name,
        sizes={axis: read(axis, "world_size") for axis in axes},
        coords={axis: read(axis, "rank") for axis in axes},
        uniform_axes=uniform_axes,
    )


def require_supported_version(version: str = megatron.core.__version__) -> None:
    """Refuses a megatron-core whose internals nobody has compared with ours.

    Raises:
        UsageError: The version was not tested.
    """
    if version not in TESTED_VERSIONS:
        raise UsageError(
            "this version of megatron-core is not supported",
            where="megatron.core",
            expected=f"megatron-core {' or '.join(TESTED_VERSIONS)}",
            got=version,
            remedy=f"install megatron-core=={TESTED_VERSIONS[-1]}",
        )
