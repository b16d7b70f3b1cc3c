"""Rates of dropout, as traces name them and write them down.

Frontends record them among the settings of a rank, under ``dropout.<module>``, or
``dropout.<module>:<attribute>`` of modules that drop inside of a larger computation.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_PREFIX = "dropout."

_IN_EVALUATION = " in eval mode"

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.:])")
"""A part of a path that is the number of a layer."""

_T = TypeVar("_T")


def dropout_key(module: str, attribute: str | None = None) -> str:
    """``dropout.layers.0.drop``; ``dropout.attn:attention_dropout``.

    Args:
        module: Path of the module.
        attribute: Of the module, that holds the rate; None for one that only drops.
    """
    return f"{_PREFIX}{module}" + ("" if attribute is None else f":{attribute}")


def parse_dropout_key(key: str) -> tuple[str, str | None] | None:
    """Module and attribute; None of another setting."""
    if not key.startswith(_PREFIX):
        return None
    module, _, attribute = key.removeprefix(_PREFIX).partition(":")
    return module, attribute or None


def rate_text(rate: float, *, is_training: bool) -> str:
    """``0.1``, ``0``, or ``0 in eval mode`` where evaluation turns it off."""
    if rate and not is_training:
        return f"0{_IN_EVALUATION}"
    return f"{rate:.6g}"


def effective(text: str) -> str:
    """The rates that are computed with, whatever turns them off."""
    return text.replace(_IN_EVALUATION, "")


def without_dropout(settings: Mapping[str, _T]) -> dict[str, _T]:
    """Settings of a run, but its rates of dropout."""
    return {
        key: value for key, value in settings.items() if parse_dropout_key(key) is None
    }


def of_all_layers(key: str) -> str:
    """The key that stands for the same module of all layers: numbers are ``*``."""
    return _NUMBER.sub("*", key)


def collapsed(texts: Mapping[str, str]) -> dict[str, str]:
    """One text for modules of several layers, where it is the same of all of them.

    Args:
        texts: By key.
    """
    groups: dict[str, list[str]] = {}
    for key in texts:
        groups.setdefault(of_all_layers(key), []).append(key)
    found = {}
    for common, keys in groups.items():
        is_named = common != dropout_key("*")
        if is_named and len(keys) > 1 and len({texts[key] for key in keys}) == 1:
            found[common] = texts[keys[0]]
        else:
            found |= {key: texts[key] for key in keys}
    return found


def stated_rates(settings: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The texts of all ranks, by key; the first rank that states one counts.

    What stands for all layers is left out where single ones are stated, too.
    """
    found: dict[str, str] = {}
    for of_rank in settings:
        for key, text in of_rank.items():
            if parse_dropout_key(key) is not None:
                found.setdefault(key, str(text))
    stale = {of_all_layers(key) for key in found if "*" not in key}
    return {
        key: text for key, text in found.items() if "*" not in key or key not in stale
    }


def rate_of(key: str, rates: Mapping[str, str]) -> str | None:
    """What is stated of a module, itself or with those of all layers."""
    return rates.get(key, rates.get(of_all_layers(key)))
