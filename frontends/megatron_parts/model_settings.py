"""What Megatron's modules are configured with, as a run states it.

Under the modules that it is of, so that a report names it where these differ first;
what is of the whole model, under the names of Megatron.
"""

import functools
from collections.abc import Iterable
from typing import Any

import torch

from ttrace.frontends.megatron_parts.config_fields import (
    OF_IMPLEMENTATION,
    OF_MODEL,
    OF_MODULES,
    OF_PRECISION,
)
from ttrace.frontends.megatron_parts.matching import matches
from ttrace.ir.module_settings import module_key, of_layers
from ttrace.ir.optimizer_settings import setting_text

SettingValue = str | int | float | bool | None


def settings_of_model(config: Any) -> dict[str, SettingValue]:
    """What is of the model as a whole: its size, its precision, its code.

    Args:
        config: Megatron's; fields that this release lacks are None.
    """
    names = sorted(OF_MODEL | OF_PRECISION | OF_IMPLEMENTATION)
    return {name: _value(getattr(config, name, None)) for name in names}


def settings_of_modules(
    modules: Iterable[tuple[str, torch.nn.Module]], config: Any
) -> dict[str, str]:
    """What changes the mathematics of modules, of equal layers once.

    Args:
        modules: By canonical path.
        config: Of the model; a module that has one of its own is asked for that.
    """
    texts: dict[str, str] = {}
    paths = []
    fields_of = functools.cache(_fields)
    for path, module in modules:
        paths.append(path)
        own = getattr(module, "config", config)
        for name in fields_of(type(module)):
            value = getattr(own, name, _ABSENT)
            if value is not _ABSENT:
                texts[module_key(path, name)] = _text(value)
    return of_layers(texts, paths)


_ABSENT = object()


def _fields(class_: type) -> tuple[str, ...]:
    """The fields that modules of a class compute with."""
    found = [
        names
        for classes, names in OF_MODULES.items()
        if any(matches(base.__name__, classes) for base in class_.__mro__)
    ]
    return tuple(sorted(frozenset().union(*found)))


def _value(value: object) -> SettingValue:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(value)


def _text(value: object) -> str:
    """The same in all processes: of a function its name, never its address."""
    if value is None or isinstance(value, bool | int | float | str):
        return "None" if value is None else setting_text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, functools.partial):
        return f"partial of {_text(value.func)}"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)
