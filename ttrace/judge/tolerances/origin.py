"""What tolerances were measured on, and whether a reference is that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttrace.ir.kinds import Kind
from ttrace.ir.module_code import without_code
from ttrace.ir.parameter_groups import without_groups
from ttrace.ir.trace import TraceInfo
from ttrace.ir.written_dims import without_written


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The reference that noise was measured on, as far as noise depends on it.

    Attributes:
        framework: Frontend that recorded it.
        settings: Its precision flags, parallel sizes, dtypes.
        capture: The filters that were on.
        parameters: Dtype and shape of its parameters, by module and name.
    """

    framework: str
    settings: Mapping[str, str | int | float | bool | None]
    capture: Mapping[str, str]
    parameters: Mapping[str, str]

    @classmethod
    def of(cls, info: TraceInfo) -> "Origin":
        """That of a run."""
        rank_info = info.ranks[0]
        return cls(
            framework=rank_info.framework,
            settings=without_groups(without_code(without_written(rank_info.settings))),
            capture=dict(rank_info.capture),
            parameters={
                f"{id_.module}/{id_.slot}": f"{record.shards[0].dtype} "
                f"{list(record.global_shape)}"
                for id_, record in info.tensors.items()
                if id_.kind is Kind.PARAM
            },
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Origin":
        """Reads what ``dataclasses.asdict`` made."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})
