"""Settings of torch optimizers beside the learning rate: betas, weight decay, momentum.

Read from the groups of parameters, where every optimizer keeps them, also those that
torch does not ship.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.ir.optimizer_settings import SettingValue, setting_key, setting_text

_NO_SETTINGS = frozenset(
    {
        "params",
        "param_names",
        "capturable",
        "default_config",
        "differentiable",
        "foreach",
        "fused",
        "step",
    }
)
"""What a group holds beside: state, and in which form the same is computed."""

_NO_PREFIXES = ("is_", "_")
"""How names of marks begin that say what kind of parameters are in a group."""

_MOST_VALUES = 4
"""Numbers in a setting; longer lists are no settings that a person wrote."""


def settings_of(
    groups: Sequence[Mapping[str, Any]], *, first_group: int = 0
) -> dict[str, SettingValue]:
    """What the groups are set to, by the keys of a trace.

    Args:
        groups: Of an optimizer; what one without parameters is set to sets nothing.
        first_group: Number of its first group, where there are several optimizers.
    """
    return {
        setting_key(first_group + index, name): value
        for index, group in enumerate(groups)
        if group["params"]
        for name, value in _of_group(group)
    }


def common_settings(groups: Sequence[Mapping[str, Any]]) -> dict[str, SettingValue]:
    """The same where runs may cut one model into other groups: all values together.

    Args:
        groups: Of an optimizer.
    """
    found: dict[str, set[str]] = {}
    for group in groups:
        for name, value in _of_group(group):
            found.setdefault(name, set()).add(setting_text(value))
    return {
        setting_key(None, name): " and ".join(sorted(texts))
        for name, texts in found.items()
    }


def _of_group(group: Mapping[str, Any]) -> Iterator[tuple[str, SettingValue]]:
    for name, value in group.items():
        # The learning rate is recorded step by step; schedules keep others beside it.
        if name == "lr" or name.endswith("_lr"):
            continue
        if name in _NO_SETTINGS or name.startswith(_NO_PREFIXES):
            continue
        plain = _plain(value)
        if plain is not None and name.isidentifier():
            yield name, plain


def _plain(value: Any) -> SettingValue | None:
    """A value as a trace may hold it; None of all that is no setting."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, torch.Tensor):
        # Those of a device would have to be waited for.
        if value.numel() != 1 or value.device.type != "cpu":
            return None
        with unobserved():
            return float(value.item())
    if isinstance(value, tuple | list) and 0 < len(value) <= _MOST_VALUES:
        parts = [_plain(part) for part in value]
        numbers = [float(part) for part in parts if isinstance(part, int | float)]
        if len(numbers) == len(parts):
            return tuple(numbers)
    return None
