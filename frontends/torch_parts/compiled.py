"""Regions of a model that ``torch.compile`` compiles: observed from the outside.

Dynamo would trace hooks inside of a region into the graph, and refuse those that it
cannot. So modules inside carry none, and the region itself is observed around its
compiled call.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ttrace.frontends.torch_parts.called_methods import observed_call
from ttrace.frontends.torch_parts.names import innermost

INSIDE = (
    "inside of a region that torch.compile compiles, which is not looked into; "
    'torch.compiler.set_stance("force_eager") before the training shows it'
)


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether a module is what ``torch.compile`` returns, or was told to compile."""
    if _is_forced_to_be_eager():
        return False
    return (
        is_wrapper(module) or getattr(module, "_compiled_call_impl", None) is not None
    )


def is_wrapper(module: torch.nn.Module) -> bool:
    """Whether a module is what ``torch.compile`` makes of another one."""
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    wrapper = getattr(eval_frame, "OptimizedModule", None)
    return wrapper is not None and isinstance(module, wrapper)


def compiled_away(modules: Iterable[torch.nn.Module]) -> set[int]:
    """``id()`` of the modules inside of compiled regions.

    Args:
        modules: All modules of the model.
    """
    return {
        id(inner)
        for module in modules
        if is_compiled(module)
        for inner in module.modules()
        if inner is not module
    }


def own_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """The buffers of a module itself, or of what it is a wrapper of."""
    return innermost(module)._buffers


def has_compiled() -> bool:
    """Whether anything was compiled in this process so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils is not None and utils.counters["stats"]["unique_graphs"] > 0


class CompiledCall:
    """Runs hooks around the compiled call of ``module.compile()``.

    What is compiled there includes the module's own hooks.

    Args:
        module: The module.
        before: As for ``register_forward_pre_hook(..., with_kwargs=True)``.
        after: As for ``register_forward_hook(..., with_kwargs=True,
            always_call=True)``.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        before: Callable[..., Any],
        after: Callable[..., Any],
    ):
        self._module = module
        self._original: Any = module._compiled_call_impl
        self._observed: Any = observed_call(self._original, module, before, after)
        module._compiled_call_impl = self._observed

    def remove(self) -> None:
        """Calls the compiled module directly again."""
        if self._module._compiled_call_impl is self._observed:
            self._module._compiled_call_impl = self._original


def _is_forced_to_be_eager() -> bool:
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")
    stance = getattr(eval_frame, "_stance", None)
    return getattr(stance, "stance", None) == "force_eager"
