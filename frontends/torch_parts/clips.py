"""Sees gradients being clipped by torch, however a script calls it."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CellType, GeneratorType
from typing import Any, Protocol

import torch

from ttrace.frontends.torch_parts.guards import guarded


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One call of a function that clips gradients.

    Attributes:
        parameter_ids: ``id()`` of the parameters whose gradients it is given.
        with_gradient: Those of them that have a gradient.
        gives_norm: It returns, or is given, the 2-norm of their gradients.
        limits: It may change them; an infinite limit only asks for the norm.
    """

    parameter_ids: frozenset[int]
    with_gradient: frozenset[int]
    gives_norm: bool
    limits: bool


class ClipObserver(Protocol):
    """Is told of clips. Neither method may raise."""

    def before_clip(self, clip: Clip) -> None:
        """Gradients are about to be clipped."""
        ...

    def after_clip(self, clip: Clip, norm: torch.Tensor | float | None) -> None:
        """Gradients were clipped; ``norm`` is what it was before, if known."""
        ...


@contextlib.contextmanager
def observed_clips(observers: Sequence[ClipObserver]) -> Iterator[None]:
    """Tells observers of calls of torch's functions that clip, while it lasts.

    These are ``clip_grad_norm_``, ``clip_grad_value_`` and ``clip_grads_with_norm_`` of
    ``torch.nn.utils``, and the method ``clip_grad_norm_`` of FSDP1's wrapper.
    """
    watch = _Watch(observers)
    with contextlib.ExitStack() as stack:
        for place in _places():
            undo = _replaced(place, watch)
            if undo is not None:
                stack.callback(undo)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A function that clips, and where it is found.

    Attributes:
        owner: The module or class.
        name: Its name there.
        limit: Name of the parameter with the limit.
        is_method: Its first argument is a model.
    """

    owner: Any
    name: str
    limit: str
    is_method: bool = False


def _places() -> Iterator[_Place]:
    # Both have a name of their own for it; it is one function.
    clip_grad = torch.nn.utils.clip_grad
    yield _Place(owner=clip_grad, name="clip_grad_norm_", limit="max_norm")
    yield _Place(owner=clip_grad, name="clip_grad_value_", limit="clip_value")
    yield _Place(owner=clip_grad, name="_clip_grads_with_norm_", limit="max_norm")
    fsdp = sys.modules.get("torch.distributed.fsdp")
    wrapper = getattr(fsdp, "FullyShardedDataParallel", None)
    if wrapper is not None:
        yield _Place(
            owner=wrapper, name="clip_grad_norm_", limit="max_norm", is_method=True
        )


class _Watch:
    """Tells observers of the outermost calls."""

    def __init__(self, observers: Sequence[ClipObserver]):
        self._observers = observers
        self._is_inside = False

    def call(
        self,
        place: _Place,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._is_inside or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if args and isinstance(args[0], GeneratorType):
            listed = list(args[0])  # its first reader would be its last
            args = ((parameter for parameter in listed), *args[1:])
        elif isinstance(kwargs.get("parameters"), GeneratorType):
            listed = list(kwargs["parameters"])
            kwargs = {**kwargs, "parameters": (parameter for parameter in listed)}
        else:
            listed = args[0] if args else kwargs.get("parameters")
        self._is_inside = True
        try:
            clip = _clip_of(place, listed, args[1:], kwargs)
            if clip is not None and not (clip.with_gradient or place.is_method):
                clip = None  # there is nothing to clip; of FSDP1 other ranks may have
            if clip is not None:
                for observer in self._observers:
                    observer.before_clip(clip)
            result = function(*args, **kwargs)
            if clip is not None:
                norm = _norm_of(place, result, args[1:], kwargs)
                for observer in self._observers:
                    observer.after_clip(clip, norm)
            return result
        finally:
            self._is_inside = False


@guarded("see which gradients are clipped")
def _clip_of(
    place: _Place, parameters: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Clip:
    if place.is_method:
        parameters = list(parameters.parameters())
    elif isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    elif not isinstance(parameters, Iterable):
        raise TypeError(f"{type(parameters).__name__} is no iterable of parameters")
    tensors = [p for p in parameters if isinstance(p, torch.Tensor)]
    limit = kwargs.get(place.limit, args[0] if args else math.inf)
    norm_type = kwargs.get("norm_type", args[1] if len(args) > 1 else 2.0)
    if place.name == "_clip_grads_with_norm_":
        norm_type = 2.0  # nobody says of which type it is, and this is nearly always it
    gives_norm = place.limit == "max_norm" and float(norm_type) == 2.0
    return Clip(
        parameter_ids=frozenset(map(id, tensors)),
        with_gradient=frozenset(id(p) for p in tensors if p.grad is not None),
        gives_norm=gives_norm,
        limits=not math.isinf(float(limit)),
    )


@guarded("read the norm of clipped gradients")
def _norm_of(
    place: _Place, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Tensor | float | None:
    if place.limit != "max_norm":
        return None
    if place.name == "_clip_grads_with_norm_":
        result = kwargs.get("total_norm", args[1] if len(args) > 1 else None)
    is_norm = isinstance(result, float) or (
        isinstance(result, torch.Tensor) and result.dim() == 0
    )
    return result if is_norm else None


@guarded("watch a function that clips gradients")
def _replaced(place: _Place, watch: _Watch) -> Callable[[], None] | None:
    """Puts an observed function in the place; what puts the old one back."""
    original = getattr(place.owner, place.name, None)
    if original is None:
        return None
    # A script that has imported the function by its name holds this very object, so
    # what it calls inside is replaced.
    cell = _inner_cell(original)
    inner = original if cell is None else cell.cell_contents

    @functools.wraps(inner)
    def observed(*args: Any, **kwargs: Any) -> Any:
        return watch.call(place, inner, args, kwargs)

    if cell is not None:
        cell.cell_contents = observed

        def restore() -> None:
            cell.cell_contents = inner
    else:
        setattr(place.owner, place.name, observed)

        def restore() -> None:
            setattr(place.owner, place.name, original)

    return restore


def _inner_cell(function: Any) -> CellType | None:
    """Where a function that torch has wrapped in ``no_grad`` holds the wrapped one."""
    code = getattr(function, "__code__", None)
    if code is None or "func" not in code.co_freevars or not function.__closure__:
        return None
    cell = function.__closure__[code.co_freevars.index("func")]
    return cell if callable(cell.cell_contents) else None
