"""Settings of optimizers, as traces name them and write them down.

Frontends record them among the settings of a rank, under ``optimizer.<group>.<name>``;
``ttrace.judge.settings.optimizer_settings`` compares them. Names are torch's where
another framework has the same: ``betas``, ``eps``, ``weight_decay``, ``momentum``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

OPTIMIZER = "optimizer"
"""The setting that says of a trace that it was given no optimizer."""

NO_OPTIMIZER = "none was given to the trace"

SettingValue = bool | int | float | str | tuple[float, ...]

_T = TypeVar("_T")

_NAME = re.compile(r"optimizer\.([^.]+)\.(\w+)")

_ALL = "all"

_LABEL = "label "

_MOST_CHANGES = 4
"""Values of a setting that one trace writes down; schedules may have one a step."""


def setting_key(group: int | str | None, name: str) -> str:
    """``optimizer.group0.betas``; ``optimizer.all.betas`` where no group is told apart.

    Args:
        group: Number of the group of parameters, or its label: ``optimizer.label
            slow.betas``.
        name: Of the setting.
    """
    if isinstance(group, str):
        return f"optimizer.{_LABEL}{group.replace('.', '_')}.{name}"
    return f"optimizer.{_ALL if group is None else f'group{group}'}.{name}"


def parse_setting_key(key: str) -> tuple[str, str] | None:
    """Group (``group0`` or ``all``) and name; None if it is no optimizer's setting."""
    found = _NAME.fullmatch(key)
    return None if found is None else (found[1], found[2])


def is_label(group: str) -> bool:
    """Whether a group has a label of the user's, and no number alone."""
    return group.startswith(_LABEL)


def groups_text(groups: Sequence[str]) -> str:
    """``group 0``, ``groups 0, 2``, ``label slow``.

    Args:
        groups: As ``parse_setting_key`` gives them.
    """
    noun, before = "group", "group"
    if all(map(is_label, groups)):
        noun, before = "label", _LABEL
    names = ", ".join(group.removeprefix(before) for group in groups)
    return f"{noun}{'s' if len(groups) > 1 else ''} {names}"


def without_optimizer(settings: Mapping[str, _T]) -> dict[str, _T]:
    """Settings of a run, but those of its optimizers."""
    return {
        key: value for key, value in settings.items() if parse_setting_key(key) is None
    }


def setting_text(value: SettingValue) -> str:
    """``(0.9, 0.999)``, ``1e-08``, ``True``: the same text for the same setting.

    To six digits, which float32 keeps: some optimizers hold theirs in it.
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(setting_text, value))})"
    if isinstance(value, bool | str):
        return str(value)
    return f"{float(value):.6g}"


class SettingHistory:
    """Writes down the settings of an optimizer, and what becomes of them."""

    def __init__(self):
        self._last: dict[str, str] = {}
        self._texts: dict[str, list[str]] = {}

    def changed(
        self, step: int, settings: Mapping[str, SettingValue]
    ) -> dict[str, str]:
        """What is to be stated in a step: nothing of what is as it was.

        Args:
            step: Number of the step.
            settings: By the key of ``setting_key``.

        Returns:
            The texts, with what came before: ``0.1; from step 2 on 0``.
        """
        stated = {}
        for key, value in settings.items():
            text = setting_text(value)
            if self._last.get(key) == text:
                continue
            self._last[key] = text
            texts = self._texts.setdefault(key, [])
            if len(texts) > _MOST_CHANGES:
                continue
            if len(texts) == _MOST_CHANGES:
                texts.append("...")
            else:
                texts.append(f"from step {step} on {text}" if texts else text)
            stated[key] = "; ".join(texts)
        return stated
