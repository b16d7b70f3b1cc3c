"""The styles that ``parallelize_module`` has put on a module, read from its hooks.

Nothing else is left of them on the module. What the closures hold is no public
interface: what is not found as it is known is a style that is not understood, and said.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_Placements = tuple[Any, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParallelStyle:
    """What the hooks of a module do with the layouts of its input and output.

    Attributes:
        given: Placements of what the module is given, before its hooks; None where
            they say nothing.
        taken: Placements of what its forward is given.
        returned: Placements of what it returns, after its hooks.
        takes_local: What its forward is given is a plain tensor.
        returns_local: What it returns is a plain tensor.
        device_mesh: The mesh that they speak of.
        not_understood: A hook of torch.distributed.tensor that is not known, or "".
    """

    given: _Placements = None
    taken: _Placements = None
    returned: _Placements = None
    takes_local: bool = False
    returns_local: bool = False
    device_mesh: Any = None
    not_understood: str = ""


def style_of(module: torch.nn.Module) -> ParallelStyle | None:
    """The style on a module; None where there is none."""
    hooks = [
        *((True, hook) for hook in module._forward_pre_hooks.values()),
        *((False, hook) for hook in module._forward_hooks.values()),
    ]
    found: dict[str, Any] = {}
    for is_input, hook in hooks:
        if not getattr(hook, "__module__", "").startswith("torch.distributed.tensor"):
            continue
        try:
            found |= _read(is_input, hook)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            found["not_understood"] = _name_of(hook)
    return ParallelStyle(**found) if found else None


def _name_of(hook: Callable) -> str:
    """Name of the style's function that a hook calls, as far as it can be found."""
    for cell in getattr(hook, "__closure__", None) or ():
        held = cell.cell_contents
        if isinstance(held, functools.partial):
            return held.func.__qualname__
    return getattr(hook, "__qualname__", repr(hook))


def _read(is_input: bool, hook: Callable) -> Mapping[str, Any]:
    """What one hook says.

    Raises:
        KeyError: It is not one of those that are known; or another error of looking at
            it as if it were.
    """
    cells: Any = hook.__closure__ or ()
    closure = dict(
        zip(hook.__code__.co_freevars, (c.cell_contents for c in cells), strict=True)
    )
    mesh = {"device_mesh": closure["device_mesh"]}
    function = closure.get("input_fn" if is_input else "output_fn")
    if isinstance(function, functools.partial):
        style, _, method = function.func.__qualname__.rpartition(".")
        reader = _READERS[style, method]
        return {**reader(*function.args), **mesh}
    return {**_MODULE_READERS[type(closure["self"]).__name__](closure["self"]), **mesh}


def _linear_input(given: _Placements, taken: _Placements) -> dict[str, Any]:
    return {"given": given, "taken": taken}


def _linear_output(returned: _Placements, is_local: bool) -> dict[str, Any]:
    return {"returned": returned, "returns_local": is_local}


def _sequence_input(sharding: _Placements) -> dict[str, Any]:
    return {"given": sharding, "taken": sharding, "returned": sharding}


_READERS: Mapping[tuple[str, str], Callable[..., dict[str, Any]]] = {
    ("ColwiseParallel", "_prepare_input_fn"): _linear_input,
    ("ColwiseParallel", "_prepare_output_fn"): _linear_output,
    ("RowwiseParallel", "_prepare_input_fn"): _linear_input,
    ("RowwiseParallel", "_prepare_output_fn"): _linear_output,
    ("SequenceParallel", "_prepare_input_fn"): _sequence_input,
    ("SequenceParallel", "_prepare_output_fn"): lambda is_local: {
        "returns_local": is_local
    },
}

_MODULE_READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "PrepareModuleInput": lambda style: {
        "given": _only(style.input_layouts),
        "taken": _only(style.desired_input_layouts),
        "takes_local": style.use_local_output,
    },
    "PrepareModuleOutput": lambda style: {
        "returned": _only(style.desired_output_layouts),
        "returns_local": style.use_local_output,
    },
}


def _only(layouts: tuple[Any, ...] | None) -> _Placements:
    """The placement of the first tensor, where all have the same one."""
    placements = {layout for layout in layouts or () if layout is not None}
    return tuple(placements) if len(placements) == 1 else None
