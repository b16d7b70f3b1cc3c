"""What tolerances were measured on, and whether a reference is that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttrace.errors import UsageError
from ttrace.ir.kinds import Kind
from ttrace.ir.settings import differing_settings
from ttrace.ir.trace import TraceInfo

_MAX_NAMED = 3
"""Differences that an error names."""

_REMEDY = (
    "measure the noise of this reference: record it with 'ttrace record --perturb N' "
    "and run 'ttrace tolerance', or leave --tolerance out"
)


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
            settings=dict(rank_info.settings),
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


def require_origin(origin: Origin, reference: TraceInfo, *, name: str) -> None:
    """Refuses tolerances that were measured on another model, or set up otherwise.

    Args:
        origin: What they were measured on.
        reference: What they are to judge by.
        name: What messages call the reference.

    Raises:
        UsageError: It is another one.
    """
    here = Origin.of(reference)
    if origin.framework != here.framework:
        raise refusal(
            name,
            f"noise of a run of {origin.framework}",
            f"a run of {here.framework}",
        )
    settings = differing_settings(origin.settings, here.settings)
    if settings:
        raise refusal(name, _pairs(settings, 0) + " (as measured)", _pairs(settings, 1))
    parameters = differing_settings(origin.parameters, here.parameters)
    if origin.capture != here.capture:  # either may have left parameters out
        parameters = {key: pair for key, pair in parameters.items() if None not in pair}
    if parameters:
        raise refusal(
            name,
            "parameters " + _pairs(parameters, 0) + " (as measured)",
            _pairs(parameters, 1),
        )


def _pairs(differences: Mapping[str, tuple[object, object]], side: int) -> str:
    named = [f"{key} {pair[side]}" for key, pair in differences.items()][:_MAX_NAMED]
    more = len(differences) - len(named)
    return ", ".join(named) + (f", and {more} more" if more else "")


def refusal(where: str, expected: str, got: str) -> UsageError:
    """The error that refuses tolerances of another reference."""
    return UsageError(
        "the tolerances were measured on another reference",
        where=where,
        expected=expected,
        got=got,
        remedy=_REMEDY,
    )
