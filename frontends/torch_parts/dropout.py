"""Rates of dropout that modules of torch run with."""

import re
from collections.abc import Mapping
from typing import TypeGuard

import torch

from ttrace.ir.dropout import collapsed, dropout_key, rate_text
from ttrace.ir.optimizer_settings import SettingHistory

_DROPOUT = torch.nn.modules.dropout._DropoutNd
"""What torch's modules are made from that do nothing but drop."""

_NAME = re.compile(r"dropout|(^|_)drop(_?(path|prob|rate|p))*$", re.IGNORECASE)
"""In the names of attributes that hold a rate: ``dropout_p``, ``drop_prob``..."""


class DropoutRates:
    """Notes the rates of modules that run, and writes down what changes."""

    def __init__(self):
        self._attributes: dict[str, tuple[str, ...]] = {}
        self._of_step: dict[str, str] = {}
        self._history = SettingHistory()
        self._texts: dict[str, str] = {}

    def note(self, path: str, module: torch.nn.Module) -> None:
        """A module runs; of several calls in a step the first counts."""
        attributes = self._attributes.get(path)
        if attributes is None:
            attributes = self._attributes[path] = _attributes_of(module)
        for attribute in attributes:
            rate = getattr(module, attribute, None)
            is_own = isinstance(module, _DROPOUT) and attribute == "p"
            key = dropout_key(path, None if is_own else attribute)
            if key not in self._of_step and _is_rate(rate):
                text = rate_text(float(rate), is_training=module.training)
                self._of_step[key] = text

    def end_step(self, step: int) -> Mapping[str, str]:
        """What is to be stated of the step; nothing of what is as it was.

        Args:
            step: Number of the step that ends.
        """
        changed = self._history.changed(step, self._of_step)
        self._of_step.clear()
        if not changed:
            return {}
        self._texts |= changed
        return collapsed(self._texts)


def _attributes_of(module: torch.nn.Module) -> tuple[str, ...]:
    if isinstance(module, _DROPOUT):
        return ("p",)
    if isinstance(module, torch.nn.RNNBase) and module.num_layers == 1:
        return ()  # it drops between its layers alone
    return tuple(
        name
        for name, value in vars(module).items()
        if _NAME.search(name) and _is_rate(value)
    )


def _is_rate(value: object) -> TypeGuard[int | float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= 1
    )
