"""What modules of torch are configured with, beside their sizes and their parameters,
and where their code is.

Of torch's own modules what they list as constants; of others the few attributes whose
names say what they are, such as the epsilon of a norm. Of all what their first call is
given that is no tensor: factors and flags, which a layer around may compute.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from ttrace.ir.module_code import code_key
from ttrace.ir.module_settings import module_key, of_layers
from ttrace.ir.optimizer_settings import setting_text
from ttrace.recording.source_code import code_text

_SIZES = re.compile(r"(features|channels|embeddings|embedding_dim|_size|_shape)$")
"""In names: what shapes of parameters show; of ``kernel_size`` they do not."""

_WITHOUT_EFFECT = frozenset({"inplace", "sparse", "name", "dropout", "p"})
"""What changes no number, and rates of dropout, which are recorded for themselves."""

_NAME = re.compile(r"(^|_)(eps|epsilon|momentum|slope|temperature|scale|scaling)$")
"""Attributes of modules that are not torch's own."""


class ModuleSettings:
    """Notes the configuration and the code of modules that run, each once."""

    def __init__(self):
        self._seen: set[str] = set()
        self._texts: dict[str, str] = {}
        self._is_new = False

    def note(
        self,
        path: str,
        module: torch.nn.Module,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """A module runs, on these arguments."""
        if path in self._seen:
            return
        self._seen.add(path)
        for attribute in _attributes_of(module):
            self._note(
                module_key(path, attribute), _text(getattr(module, attribute, None))
            )
        for name, value in (*enumerate(args), *kwargs.items()):
            # Other integers are sizes and numbers of layers, which layouts change.
            if isinstance(value, float | bool):
                key = module_key(path, f"argument {name}")
                self._note(key, setting_text(value))
        self._note(code_key(path), code_text(type(module), "forward"))

    def _note(self, key: str, text: str | None) -> None:
        if text is not None:
            self._texts[key] = text
            self._is_new = True

    def end_step(self) -> Mapping[str, str]:
        """What is to be stated; nothing where no other module ran."""
        if not self._is_new:
            return {}
        self._is_new = False
        return of_layers(self._texts, self._seen)


def _attributes_of(module: torch.nn.Module) -> list[str]:
    if type(module).__module__.startswith("torch.nn."):
        constants = getattr(module, "__constants__", ())
        return [
            name
            for name in map(str, constants)
            if name not in _WITHOUT_EFFECT
            and (name == "kernel_size" or not _SIZES.search(name))
        ]
    return [name for name in vars(module) if _NAME.search(name)]


def _text(value: object) -> str | None:
    if value is None or isinstance(value, bool | int | float | str):
        return "None" if value is None else setting_text(value)
    if isinstance(value, tuple) and all(isinstance(v, int | float) for v in value):
        return setting_text(value)
    return None
