"""The records of a trace: plain values, no arrays, no files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ttrace.ir.collective import CollectivePart
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.ir.operation import OperationPart
from ttrace.ir.tensor_id import TensorId, parse_tensor_id

SCHEMA_VERSION = 2
"""Version of the trace format that is written: since 2, an array may lie in a segment
that an earlier one was written to."""

READ_VERSIONS = (1, 2)
"""Versions that are read; a reader refuses any other."""

_TWICE = "it came twice, and only the first one is recorded"
"""How the reason begins in traces of before there was a flag for it."""

CHECKPOINT = "checkpoint"
"""The framework of what was not recorded but read from a checkpoint."""

MODEL_SETTINGS = frozenset(
    {
        "calculate_per_token_loss",
        "float32_matmul_precision",
        "hidden_size",
        "moe_router_topk",
        "num_attention_heads",
        "num_layers",
        "num_moe_experts",
        "num_query_groups",
    }
)
"""Names of settings that change the mathematics: runs that differ in one compute
different things, and no comparison can tell a bug from that. Frontends record them
under these names, as far as they know them; dtypes and parallel sizes are not among
them."""

PRECISION_SETTINGS = (
    "autocast",
    "compute_dtypes",
    "mixed_precision",
    "parameter_dtypes",
)
"""Names of settings that say in which dtypes a run computes: another precision of the
same mathematics."""


PRODUCT_DTYPE = "product_dtype"
"""Name of the setting that says in which dtype most matrix products of a run are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What one rank captured of one logical tensor.

    Attributes:
        id: Identity of the logical tensor.
        rank: Global rank of the process that captured it.
        sequence: Position in this rank's order of capture, from 0.
        dtype: Dtype name of the stored array (see ``ttrace.ir.dtypes``).
        layout: Which part of the logical tensor the array is.
        scale: Known factor of this run's values over the mathematical ones (e.g.
            the loss is divided by the local number of micro-batches); the
            comparison divides by it. Comes from the configuration, never from data.
        exact_replicas: Replicas must agree in every bit, not only within tolerance.
        collective: What it is an operand or a result of, if it is of that kind.
        operation: Likewise, of single operations.
    """

    id: TensorId
    rank: int
    sequence: int
    dtype: str
    layout: ShardLayout
    scale: float = 1.0
    exact_replicas: bool = False
    collective: CollectivePart | None = None
    operation: OperationPart | None = None

    def __post_init__(self):
        dtype_named(self.dtype)

    def to_json(self) -> dict:
        value = {
            "id": str(self.id),
            "sequence": self.sequence,
            "dtype": self.dtype,
            "layout": self.layout.to_json(),
        }
        if self.scale != 1.0:
            value["scale"] = self.scale
        if self.exact_replicas:
            value["exact_replicas"] = True
        if self.collective is not None:
            value["collective"] = self.collective.to_json()
        if self.operation is not None:
            value["operation"] = self.operation.to_json()
        return value

    @classmethod
    def from_json(cls, value: Mapping, *, rank: int) -> "ShardRecord":
        return cls(
            id=parse_tensor_id(value["id"]),
            rank=rank,
            sequence=value["sequence"],
            dtype=value["dtype"],
            layout=ShardLayout.from_json(value["layout"]),
            scale=value.get("scale", 1.0),
            exact_replicas=value.get("exact_replicas", False),
            collective=CollectivePart.from_json(value["collective"])
            if "collective" in value
            else None,
            operation=OperationPart.from_json(value["operation"])
            if "operation" in value
            else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRecord:
    """A tensor that a frontend saw and could not record.

    Attributes:
        id: Identity of the tensor.
        rank: Global rank that saw it.
        sequence: Position in this rank's order of capture.
        reason: One sentence for the report, e.g. ``no layout rule for ...``.
        is_ignored: A map file leaves it out of the comparison, whatever was recorded;
            traces on disk do not hold that.
        came_twice: It is a further one of a tensor that was recorded before.
    """

    id: TensorId
    rank: int
    sequence: int
    reason: str
    is_ignored: bool = False
    came_twice: bool = False

    def to_json(self) -> dict:
        value = {"id": str(self.id), "sequence": self.sequence, "skipped": self.reason}
        return {**value, "came_twice": True} if self.came_twice else value

    @classmethod
    def from_json(cls, value: Mapping, *, rank: int) -> "SkippedRecord":
        return cls(
            id=parse_tensor_id(value["id"]),
            rank=rank,
            sequence=value["sequence"],
            reason=value["skipped"],
            came_twice=value.get("came_twice", value["skipped"].startswith(_TWICE)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """What one rank says about its run when it opens its part of a trace.

    Attributes:
        run_id: Shared by all ranks of one run and by no other run.
        rank: Global rank, from 0.
        world_size: Number of processes of the run.
        recorded_ranks: Ranks that record at all (a filter may leave some out), sorted.
        framework: Frontend that recorded, e.g. ``torch`` or ``megatron``.
        versions: Version of every package that matters, by package name.
        meshes: The device meshes of the run, each with this rank's coordinates.
        settings: What changes numbers or explains differences: precision flags,
            parallel sizes, dtypes; by name, values as text, number or boolean.
        capture: The filters that were on, by name, as text.
        noise_seed: Seed of the injected noise, or None for a plain run.
        noise_dtype: Dtype whose roundings the noise stands for, where that is coarser
            than a tensor's own; else None.
        rewrites: The trace whose values took the place of the run's own; None where
            it computed with its own.
    """

    run_id: str
    rank: int
    world_size: int
    recorded_ranks: tuple[int, ...]
    framework: str
    versions: Mapping[str, str] = field(default_factory=dict)
    meshes: tuple[Mesh, ...] = ()
    settings: Mapping[str, str | int | float | bool | None] = field(
        default_factory=dict
    )
    capture: Mapping[str, str] = field(default_factory=dict)
    noise_seed: int | None = None
    noise_dtype: str | None = None
    rewrites: str | None = None

    def mesh(self, name: str) -> Mesh:
        """The mesh of that name, with this rank's coordinates on it.

        Raises:
            KeyError: The rank knows no such mesh.
        """
        for mesh in self.meshes:
            if mesh.name == name:
                return mesh
        raise KeyError(name)

    def to_json(self) -> dict:
        value = {
            "run_id": self.run_id,
            "rank": self.rank,
            "world_size": self.world_size,
            "recorded_ranks": list(self.recorded_ranks),
            "framework": self.framework,
            "versions": dict(self.versions),
            "meshes": [mesh.to_json() for mesh in self.meshes],
            "settings": dict(self.settings),
            "capture": dict(self.capture),
            "perturbation": self.noise_seed,
        }
        if self.noise_dtype is not None:
            value["noise_dtype"] = self.noise_dtype
        if self.rewrites is not None:
            value["rewrites"] = self.rewrites
        return value

    @classmethod
    def from_json(cls, value: Mapping) -> "RankInfo":
        return cls(
            run_id=value["run_id"],
            rank=value["rank"],
            world_size=value["world_size"],
            recorded_ranks=tuple(value["recorded_ranks"]),
            framework=value["framework"],
            versions=value["versions"],
            meshes=tuple(map(Mesh.from_json, value["meshes"])),
            settings=value["settings"],
            capture=value["capture"],
            noise_seed=value["perturbation"],
            noise_dtype=value.get("noise_dtype"),
            rewrites=value.get("rewrites"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One logical tensor of a trace: all shards of it, in rank order.

    Attributes:
        id: Identity of the tensor.
        shards: What each rank captured; at least one.
    """

    id: TensorId
    shards: tuple[ShardRecord, ...]

    @property
    def global_shape(self) -> tuple[int, ...]:
        """Shape of the logical tensor, as the first shard states it."""
        return self.shards[0].layout.global_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo:
    """Everything a trace holds, without its arrays.

    Attributes:
        ranks: One entry per recorded rank, sorted by rank.
        tensors: Every logical tensor by id, in order of capture.
        skipped: Tensors seen and not recorded, by id; the first reason counts.
    """

    ranks: tuple[RankInfo, ...]
    tensors: Mapping[TensorId, TensorRecord]
    skipped: Mapping[TensorId, SkippedRecord]

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is no run: its parameters are a result, and nothing was given."""
        return any(info.framework == CHECKPOINT for info in self.ranks)
