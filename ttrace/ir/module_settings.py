"""What modules are configured with, as traces name it: ``eps``, ``momentum``...

Frontends record it among the settings of a rank, under ``module.<path>:<attribute>``;
where all layers of a model have the same, once, with ``*`` for their numbers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ttrace.ir.dropout import of_all_layers

_PREFIX = "module."

_T = TypeVar("_T")


def module_key(module: str, attribute: str) -> str:
    """``module.layers.0.norm:eps``."""
    return f"{_PREFIX}{module}:{attribute}"


def parse_module_key(key: str) -> tuple[str, str] | None:
    """Module and attribute; None of another setting."""
    if not key.startswith(_PREFIX):
        return None
    module, _, attribute = key.removeprefix(_PREFIX).rpartition(":")
    return module, attribute


def without_modules(settings: Mapping[str, _T]) -> dict[str, _T]:
    """Settings of a run, but those of its modules."""
    return {
        key: value for key, value in settings.items() if parse_module_key(key) is None
    }


def of_layers(texts: Mapping[str, str], modules: Iterable[str]) -> dict[str, str]:
    """One text for several layers, where it is the same of all of them.

    Args:
        texts: By key.
        modules: All that ran: a pattern stands for nothing but what states the text.
    """
    num_modules = Counter(p for module in set(modules) for p in _patterns(module))
    groups: dict[str, list[str]] = {}
    for key in texts:
        for pattern in _patterns(key):
            groups.setdefault(pattern, []).append(key)
    found: dict[str, str] = {}
    done: set[str] = set()
    for key in texts:
        for pattern in _patterns(key):
            keys = groups[pattern]
            parsed = parse_module_key(pattern)
            is_whole = parsed is not None and len(keys) == num_modules[parsed[0]]
            if is_whole and len(keys) > 1 and len({texts[key] for key in keys}) == 1:
                if key not in done:
                    found[pattern] = texts[key]
                    done.update(keys)
                break
        else:
            found[key] = texts[key]
    return found


def _patterns(name: str) -> list[str]:
    """With ``*`` for all numbers; for all but that of the module itself."""
    module, colon, attribute = name.partition(":")
    around, dot, last = module.rpartition(".")
    some = f"{of_all_layers(around)}{dot}{last}{colon}{attribute}"
    return list(dict.fromkeys((of_all_layers(name), some)))


def stated_of_modules(settings: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The texts of all ranks, by key; the first rank that states one counts."""
    found: dict[str, str] = {}
    for of_rank in settings:
        for key, text in of_rank.items():
            if parse_module_key(key) is not None:
                found.setdefault(key, str(text))
    return found


def text_of(key: str, texts: Mapping[str, str]) -> str | None:
    """What is stated of a module, itself or with those of all layers."""
    return next((texts[k] for k in (key, *_patterns(key)) if k in texts), None)
