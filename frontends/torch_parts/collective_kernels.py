"""Puts observers around the operators of collectives, and takes them off again.

A mode of ``__torch_dispatch__`` would see the same, but it meets every operator of the
training and keeps compiled code from running. What is replaced here are the kernels of
some twenty operators, for this process: they call the former kernel with the same
arguments and return what it returned, in whichever thread they run.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from ttrace.frontends.torch_parts.collective_ops import (
    COLLECTIVE_OPS,
    CollectiveOp,
    Issued,
    issued,
)
from ttrace.frontends.torch_parts.guards import guarded

_WAITS = ("wait", "synchronize", "block_current_stream")
"""Methods of a work handle behind which its results may be read."""


class CollectiveObserver(Protocol):
    """Is told of collectives; none of the methods may raise."""

    def before(self, call: Issued) -> Any:
        """A collective is about to be asked for; returns what ``after`` is given."""
        ...

    def after(self, token: Any, work: Any) -> None:
        """It was asked for: the results are there when somebody has waited for it.

        Args:
            token: What ``before`` returned.
            work: Its handle; None where there is nothing to wait for.
        """
        ...

    def waited(self, work: Any) -> None:
        """Somebody has waited for a handle."""
        ...

    def waited_for_tensor(self, tensor: torch.Tensor) -> None:
        """Somebody has waited for the result of a functional collective."""
        ...


def can_observe() -> bool:
    """Whether this torch has collectives, and lets their kernels be called."""
    return torch.distributed.is_available() and hasattr(torch.library, "get_kernel")


@contextlib.contextmanager
def observed_collectives(observer: CollectiveObserver) -> Iterator[None]:
    """Tells an observer of all collectives of this process; needs ``can_observe``."""
    with contextlib.ExitStack() as stack:
        library = _library("c10d", stack)
        functional = _library("_c10d_functional", stack)
        for key in _device_keys():
            for op in COLLECTIVE_OPS:
                _replace(library, op.op, key, _around(op, observer))
            _replace(functional, "wait_tensor", key, _around_wait(observer))
        _observe_handles(observer, stack)
        yield


def _library(namespace: str, stack: contextlib.ExitStack) -> torch.library.Library:
    library = torch.library.Library(namespace, "IMPL")
    stack.callback(library._destroy)
    return library


def _device_keys() -> tuple[str, ...]:
    return ("CPU", "CUDA") if torch.cuda.is_available() else ("CPU",)


_Around = Callable[[Callable[..., Any], Any], Callable[..., Any]]
"""Given the former kernel and the schema, makes the one that replaces it."""


def _replace(library: torch.library.Library, name: str, key: str, around: _Around):
    try:
        former = torch.library.get_kernel(f"{library.ns}::{name}", key)  # pyright: ignore[reportAttributeAccessIssue]
    except RuntimeError:  # this release of torch has no such operator on that device
        return
    schema = getattr(getattr(torch.ops, library.ns), name).default._schema
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced is meant
        library.impl(
            name,
            around(former.call_boxed, schema),
            key,
            with_keyset=True,
            allow_override=True,
        )


def _around(op: CollectiveOp, observer: CollectiveObserver) -> _Around:
    @guarded("observe a collective")
    def begin(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return observer.before(issued(op, schema, args, kwargs))

    @guarded("observe what a collective returns")
    def end(token: Any, returned: Any) -> None:
        observer.after(token, _work_of(returned))

    def around(former: Callable[..., Any], schema: Any) -> Callable[..., Any]:
        def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            token = begin(schema, args, kwargs)
            returned = former(keyset, *args, **kwargs)
            if token is not None:
                end(token, returned)
            return returned

        return kernel

    return around


def _work_of(returned: Any) -> Any:
    from torch._C import _distributed_c10d as c10d

    boxed = returned[-1] if isinstance(returned, tuple) else returned
    return None if boxed is None else c10d.Work.unbox(boxed)


def _around_wait(observer: CollectiveObserver) -> _Around:
    told = guarded("observe the wait for a collective")(observer.waited_for_tensor)

    def around(former: Callable[..., Any], schema: Any) -> Callable[..., Any]:
        def kernel(keyset: Any, tensor: torch.Tensor) -> Any:
            returned = former(keyset, tensor)
            told(tensor)
            return returned

        return kernel

    return around


def _observe_handles(observer: CollectiveObserver, stack: contextlib.ExitStack) -> None:
    """Wraps the methods of handles that wait; all handles are of one class."""
    handle = torch.distributed.Work
    told = guarded("observe the wait for a collective")(observer.waited)

    def observed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
            returned = original(self, *args, **kwargs)
            told(self)
            return returned

        return wait

    for name in _WAITS:
        original = vars(handle).get(name)
        if original is not None:
            setattr(handle, name, observed(original))
            stack.callback(setattr, handle, name, original)
