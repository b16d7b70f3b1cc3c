"""Where in the program something runs: the line of the script, the module."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from ttrace.recording.source_lines import is_of_library, is_of_script, short_line

_LIBRARIES = frozenset({"torch", "megatron", "ttrace"})
"""Packages whose lines are none of the script's."""

_PLUMBING = (
    "torch._compile",
    "torch._dynamo",
    "torch._ops",
    "torch._library",
    "torch.library",
    "torch.autograd",
    "torch._tensor",
    "torch.utils",
    "torch.nn.modules.module",
    "torch.distributed._functional_collectives",
    "torch.distributed.c10d_logger",
    "torch.distributed.distributed_c10d",
    "torch.distributed.utils",
)
"""Modules that stand between a library and a collective, and say nothing of why."""

_OURS = ("ttrace.frontends", "ttrace.recording")
"""Packages of ttrace that run inside of a training."""

_CALL = torch.nn.Module._wrapped_call_impl.__code__
"""Every call of a module has a frame of it, hooks of the module included."""

_BACKWARD = torch.autograd.graph._engine_run_backward.__code__


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPlace:
    """What the frames of a thread say.

    Attributes:
        source: ``train.py:88``, the innermost line of the script; empty for none.
        library: The same of the innermost library; empty for none.
        modules: The modules whose calls run, innermost first: those inside of the
            backward pass, where one runs.
        nearest: Name of the Python module that runs; empty where none does.
        is_source_inside: The line of the script is in the call of the innermost module.
        caller: The line of the innermost library besides torch, inside of the line of
            the script; empty for none.
        is_backward_itself: Nothing of Python runs between the backward pass and this.
    """

    source: str
    library: str
    modules: tuple[Any, ...]
    nearest: str
    is_backward_itself: bool
    is_source_inside: bool = False
    caller: str = ""


def place_of_program(in_backward: bool) -> ProgramPlace:
    """The place that runs now, in this thread, outside of ttrace itself.

    Args:
        in_backward: A backward pass is running: what is around it does not count for
            the modules. A thread of its own has no frames but those inside.
    """
    source = library = nearest = caller = ""
    modules: list[Any] = []
    is_inside, is_itself = True, in_backward
    is_source_inside = False
    for number, (frame, name) in enumerate(_frames()):
        if in_backward and frame.f_code is _BACKWARD:
            is_inside = False
        if not number:
            nearest, is_itself = name, in_backward and not is_inside
        if is_inside and frame.f_code is _CALL:
            modules.append(frame.f_locals.get("self"))
        if source:
            continue
        file = frame.f_code.co_filename
        if is_of_script(name, file, _LIBRARIES):
            source = short_line(name, file, frame.f_lineno)
            is_source_inside = not modules
        elif is_of_library(name, _LIBRARIES, _PLUMBING):
            line = short_line(name, file, frame.f_lineno)
            library = library or line
            if not caller and name.partition(".")[0] != "torch":
                caller = line
    return ProgramPlace(
        source=source,
        library=library,
        modules=tuple(modules),
        nearest=nearest,
        is_backward_itself=is_itself,
        is_source_inside=is_source_inside,
        caller=caller,
    )


def _frames() -> Iterator[tuple[FrameType, str]]:
    """The frames of this thread with the names of their modules, without ttrace's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if not name.startswith(_OURS):
            yield frame, name
        frame = frame.f_back
