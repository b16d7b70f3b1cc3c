"""Puts observers in front of the operators of collectives, and takes them off again.

A mode of ``__torch_dispatch__`` would see the same, but it meets every operator of the
training and keeps compiled code from running; the methods of ``ProcessGroup`` are
called by Python alone, and neither by functional collectives nor by the reducer of DDP.
So some twenty operators are observed, for this process, at a dispatch key that has no
kernels of its own and comes right before those of the devices. The observing kernel
hands the call on with the same arguments and returns what that returned.

It hands it on by ``redispatch``, which lets the interpreter's lock go. Calling the next
kernel with the lock held (as ``torch.library.get_kernel`` does) can hang a run: a
thread of gloo frees the tensors of a collective under a lock of gloo, waiting for the
interpreter's, while the call waits for gloo's.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from ttrace.frontends.torch_parts.collective_ops import (
    COLLECTIVE_OPS,
    CollectiveOp,
    issued,
)
from ttrace.frontends.torch_parts.guards import guarded

_KEY = "BackendSelect"
"""Is in the dispatch of every call, whatever modes and guards are active."""

_WAITS = ("wait", "synchronize", "block_current_stream")
"""Methods of a work handle behind which its results may be read."""


class CollectiveObserver(Protocol):
    """Is told of collectives; none of the methods may raise."""

    def before(self, call: Any) -> Any:
        """A collective is about to be asked for; returns what ``after`` is given.

        Args:
            call: An ``Issued``.
        """
        ...

    def after(self, token: Any, work: Any) -> None:
        """It was asked for: the results are there when somebody has waited for it.

        Args:
            token: What ``before`` returned.
            work: Its handle, which it may share with others of one coalesced call; None
                where there is nothing to wait for.
        """
        ...

    def waited(self, work: Any) -> None:
        """Somebody has waited for a handle."""
        ...

    def waited_for_tensor(self, tensor: torch.Tensor) -> None:
        """Somebody has waited for the result of a functional collective."""
        ...


def can_observe() -> bool:
    """Whether this torch has collectives."""
    return torch.distributed.is_available()


@contextlib.contextmanager
def observed_collectives(observer: CollectiveObserver) -> Iterator[None]:
    """Tells an observer of all collectives of this process; needs ``can_observe``."""
    with contextlib.ExitStack() as stack:
        coalesced = _Coalesced(observer)
        library = _library("c10d", stack)
        functional = _library("_c10d_functional", stack)
        for op in COLLECTIVE_OPS:
            _put_before(library, op.op, _around(op, observer, coalesced))
        _put_before(functional, "wait_tensor", _around_wait(observer))
        _observe_handles(observer, stack)
        _observe_coalescing(coalesced, stack)
        yield


def _library(namespace: str, stack: contextlib.ExitStack) -> torch.library.Library:
    library = torch.library.Library(namespace, "IMPL")
    stack.callback(library._destroy)
    return library


_Around = Callable[[Callable[..., Any], Any], Callable[..., Any]]
"""Given the rest of the dispatch and the schema, makes what is put before it."""


def _put_before(library: torch.library.Library, name: str, around: _Around) -> None:
    packet = getattr(getattr(torch.ops, library.ns), name, None)
    if packet is None:  # this release of torch has no such operator
        return
    op = packet.default
    behind = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)

    def rest(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        return op.redispatch(keyset & behind, *args, **kwargs)

    library.impl(name, around(rest, op._schema), _KEY, with_keyset=True)


def _around(
    op: CollectiveOp, observer: CollectiveObserver, coalesced: "_Coalesced"
) -> _Around:
    @guarded("observe a collective")
    def begin(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = issued(op, schema, args, kwargs)
        token = observer.before(call)
        return None if token is None else (call.group, token)

    @guarded("observe what a collective returns")
    def end(begun: Any, returned: Any) -> None:
        group, token = begun
        if not coalesced.keeps(group, token):
            observer.after(token, _work_of(returned))

    def around(rest: Callable[..., Any], schema: Any) -> Callable[..., Any]:
        def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            begun = begin(schema, args, kwargs)
            returned = rest(keyset, *args, **kwargs)
            if begun is not None:
                end(begun, returned)
            return returned

        return kernel

    return around


def _work_of(returned: Any) -> Any:
    from torch._C import _distributed_c10d as c10d

    boxed = returned[-1] if isinstance(returned, tuple) else returned
    return None if boxed is None else c10d.Work.unbox(boxed)


def _around_wait(observer: CollectiveObserver) -> _Around:
    told = guarded("observe the wait for a collective")(observer.waited_for_tensor)

    def around(rest: Callable[..., Any], schema: Any) -> Callable[..., Any]:
        def kernel(keyset: Any, tensor: torch.Tensor) -> Any:
            returned = rest(keyset, tensor)
            told(tensor)
            return returned

        return kernel

    return around


def _observe_handles(observer: CollectiveObserver, stack: contextlib.ExitStack) -> None:
    """Wraps the methods of handles that wait, those of each class that has its own."""
    told = guarded("observe the wait for a collective")(observer.waited)
    handle = torch.distributed.Work
    for of in (handle, *handle.__subclasses__()):
        for name in _WAITS:
            _call_after(of, name, lambda work, returned: told(work), stack)


class _Coalesced:
    """Collectives that a group gathers and runs together: one handle for all of them.

    Args:
        observer: Is told of them when the group has that handle.
    """

    def __init__(self, observer: CollectiveObserver):
        self._observer = observer
        self._tokens: dict[str, list[Any]] = {}

    def begin(self, group: Any) -> None:
        """A group gathers from now on."""
        self._tokens[group.group_name] = []

    def keeps(self, group: Any, token: Any) -> bool:
        """Whether a collective is one of those gathered."""
        tokens = self._tokens.get(group.group_name)
        if tokens is None:
            return False
        tokens.append(token)
        return True

    def end(self, group: Any, work: Any) -> None:
        """A group runs what it gathered."""
        for token in self._tokens.pop(group.group_name, ()):
            self._observer.after(token, work)


def _observe_coalescing(coalesced: _Coalesced, stack: contextlib.ExitStack) -> None:
    begin = guarded("observe coalesced collectives")(coalesced.begin)
    end = guarded("observe coalesced collectives")(coalesced.end)
    group = torch.distributed.ProcessGroup
    _call_after(group, "_start_coalescing", lambda self, returned: begin(self), stack)
    _call_after(group, "_end_coalescing", end, stack)


def _call_after(
    of: type, name: str, told: Callable[[Any, Any], None], stack: contextlib.ExitStack
) -> None:
    """Tells of every call of a method, with its object and what it returned."""
    original = vars(of).get(name)
    if original is None:
        return

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        returned = original(self, *args, **kwargs)
        told(self, returned)
        return returned

    setattr(of, name, method)
    stack.callback(setattr, of, name, original)
