"""Canonical names of modules and parameters: those that the model has unwrapped.

Wrappers of torch put a name of their own into every path below them. It is taken out
wherever it stands, and only where the module really is that wrapper.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ttrace.ir.tensor_id import ROOT_MODULE

_WRAPPERS = (
    ("torch.nn.parallel", "DistributedDataParallel", "module"),
    ("torch.nn.parallel", "DataParallel", "module"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
    (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "ActivationWrapper",
        "_checkpoint_wrapped_module",
    ),
    ("deepspeed.runtime.engine", "DeepSpeedEngine", "module"),
    ("peft.peft_model", "PeftModel", "base_model"),
    ("peft.tuners.tuners_utils", "BaseTuner", "model"),
)
"""Where the class is defined, its name, and the name of the module inside."""

_COMPILED = ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod")
_STANDING_FOR_THE_INNER = (
    _COMPILED,
    ("peft.tuners.tuners_utils", "BaseTunerLayer", "base_layer"),
)
"""Likewise of wrappers that are looked at in place of the module inside."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedParameter:
    """A parameter under its canonical name.

    Attributes:
        module: Canonical path of the module that owns it.
        slot: Its name in that module, e.g. ``weight``.
        parameter: The parameter itself.
    """

    module: str
    slot: str
    parameter: torch.nn.Parameter


def canonical_modules(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every module once, under its first path; the model itself is ``@root``.

    Of a wrapper and what it wraps the inner one is given. Of a compiled module, and of
    a wrapper that was told to compile, it is the outer one: hooks on the inner one
    would be compiled too. So it is of a layer with an adapter (LoRA), which returns
    what the layer will with the adapter merged.
    """
    for path, module, is_hidden in _walk(model, "", set()):
        if not is_hidden:
            yield path or ROOT_MODULE, module


def canonical_parameters(*parts: torch.nn.Module) -> Iterator[NamedParameter]:
    """Every parameter once, under its first name, in the order of the modules."""
    seen: set[int] = set()
    for path, module, _ in itertools.chain(*(_walk(p, "", set()) for p in parts)):
        for slot, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield NamedParameter(
                    module=path or ROOT_MODULE, slot=slot, parameter=parameter
                )


def innermost(module: torch.nn.Module) -> torch.nn.Module:
    """What the user's own module is, inside of all wrappers of torch around it."""
    while inner := _inner_name(module, (*_WRAPPERS, _COMPILED)):
        child = module._modules[inner]
        assert child is not None
        module = child
    return module


def is_a(module: torch.nn.Module, where: str, class_name: str) -> bool:
    """Whether a module is of a class; nothing is imported for it.

    Args:
        module: The module.
        where: The module that defines the class; not loaded, no module is of it.
        class_name: Its name there.
    """
    cls = getattr(sys.modules.get(where), class_name, None)
    return cls is not None and isinstance(module, cls)


def _walk(
    module: torch.nn.Module, path: str, seen: set[int], *, is_hidden: bool = False
) -> Iterator[tuple[str, torch.nn.Module, bool]]:
    """Path, module, and whether another module stands for it."""
    if id(module) in seen:
        return
    seen.add(id(module))
    inner = _inner_name(module, _WRAPPERS)
    outer = _inner_name(module, _STANDING_FOR_THE_INNER)
    is_compiled_in_place = getattr(module, "_compiled_call_impl", None) is not None
    is_outer = outer is not None or is_compiled_in_place
    yield path, module, is_hidden or (inner is not None and not is_outer)
    for name, child in module._modules.items():
        if child is None:
            continue
        if name == (inner or outer):
            yield from _walk(child, path, seen, is_hidden=is_hidden or is_outer)
        else:
            yield from _walk(child, f"{path}.{name}" if path else name, seen)


def _inner_name(
    module: torch.nn.Module, wrappers: tuple[tuple[str, str, str], ...]
) -> str | None:
    for where, class_name, inner in wrappers:
        if is_a(module, where, class_name) and inner in module._modules:
            return inner
    return None
