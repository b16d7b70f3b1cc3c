"""Observes calls of a module that do not go through its hooks."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def observed_call(
    original: Callable[..., Any],
    module: torch.nn.Module,
    before: Callable[..., Any],
    after: Callable[..., Any],
) -> Callable[..., Any]:
    """A function that does what another one does, with hooks around it.

    Args:
        original: What runs the module.
        module: The module, for the hooks.
        before: As for ``register_forward_pre_hook(..., with_kwargs=True)``.
        after: As for ``register_forward_hook(..., with_kwargs=True,
            always_call=True)``.
    """

    @functools.wraps(original)
    def observed(*args: Any, **kwargs: Any) -> Any:
        changed = before(module, args, kwargs)
        if changed is not None:
            args, kwargs = changed
        try:
            output = original(*args, **kwargs)
        except BaseException:
            after(module, args, kwargs, None)
            raise
        replaced = after(module, args, kwargs, output)
        return output if replaced is None else replaced

    return observed


class MethodCall:
    """Runs hooks around the calls of one method of one module.

    Args:
        module: The module.
        name: Name of the method.
        before: As for ``observed_call``.
        after: Likewise.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        name: str,
        before: Callable[..., Any],
        after: Callable[..., Any],
    ):
        self._module, self._name = module, name
        self._own = vars(module).get(name)
        self._observed = observed_call(getattr(module, name), module, before, after)
        setattr(module, name, self._observed)

    def remove(self) -> None:
        """Puts back what the module had under that name."""
        if vars(self._module).get(self._name) is not self._observed:
            return  # somebody has replaced it since
        if self._own is None:
            delattr(self._module, self._name)
        else:
            setattr(self._module, self._name, self._own)
