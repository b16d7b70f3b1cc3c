"""Where in the source the code of a module begins, as traces name it.

Frontends record it among the settings of a rank, as that of a module's configuration
(``ttrace.ir.module_settings``), under an attribute of its own. It is shown, and
compared with nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ttrace.ir.module_settings import (
    module_key,
    parse_module_key,
    stated_of_modules,
    text_of,
)
from ttrace.ir.tensor_id import ROOT_MODULE

_ATTRIBUTE = "code"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleCode:
    """Where the code of a module begins.

    Attributes:
        module: Its path.
        name: Of the method, e.g. ``Attention.forward``.
        file: As seen from the folder in which the run began, else from that of its
            package.
        line: Its first line, from 1.
    """

    module: str
    name: str
    file: str
    line: int


def code_key(module: str) -> str:
    """The setting under which a module's code is recorded.

    Args:
        module: Its path; empty for the model itself.
    """
    return module_key(module or ROOT_MODULE, _ATTRIBUTE)


def without_code(settings: Mapping[str, _T]) -> dict[str, _T]:
    """Settings of a run, but where its modules' code is."""
    return {
        key: value
        for key, value in settings.items()
        if (parse_module_key(key) or ("", ""))[1] != _ATTRIBUTE
    }


def stated_code(settings: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The texts of all ranks, by the paths of modules, with ``*`` for their numbers."""
    found = {}
    for key, text in stated_of_modules(settings).items():
        parsed = parse_module_key(key)
        if parsed is not None and parsed[1] == _ATTRIBUTE:
            found[parsed[0]] = text
    return found


def code_of(module: str, stated: Mapping[str, str]) -> ModuleCode | None:
    """The code of a module, or of the nearest one around it whose code is known.

    Args:
        module: Its path.
        stated: What ``stated_code`` returned.
    """
    texts = {code_key(path): text for path, text in stated.items()}
    for path in _outwards(module):
        text = text_of(code_key(path), texts)
        if text is not None:
            place, _, name = text.rpartition(" ")
            file, _, line = place.rpartition(":")
            if not line.isdigit():
                return None
            return ModuleCode(module=path, name=name, file=file, line=int(line))
    return None


def _outwards(module: str) -> Iterable[str]:
    while module and module != ROOT_MODULE:
        yield module
        module = module.rpartition(".")[0]
    yield ROOT_MODULE
