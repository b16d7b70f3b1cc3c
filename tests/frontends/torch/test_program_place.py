"""The line of the script and of the library, told from the frames of a thread."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ttrace.frontends.torch_parts.program_place import ProgramPlace, place_of_program

SCRIPT = ("__main__", "/home/me/train.py")


def stack(*frames: tuple[str, str], inner: Callable[[], Any]) -> Any:
    """Calls through frames of these modules and files, outermost first."""
    call = inner
    for name, file in reversed(frames):
        space: dict[str, Any] = {"__name__": name, "inner": call}
        exec(compile("\n\ndef go():\n    return inner()\n", file, "exec"), space)
        call = space["go"]
    return call()


def place(*frames: tuple[str, str]) -> ProgramPlace:
    return stack(*frames, inner=lambda: _ours(False))


def _ours(in_backward: bool) -> ProgramPlace:
    """Asks as ttrace does: its own frames do not count."""
    space = {"__name__": "ttrace.frontends.x", "ask": place_of_program}
    exec("def go(b):\n    return ask(b)\n", space)
    return space["go"](in_backward)


@pytest.fixture(autouse=True)
def _this_file_is_a_library(monkeypatch):
    """So that the frames made here are the innermost ones of a script."""
    monkeypatch.setitem(globals(), "__name__", "ttrace.frontends.tests")


def test_the_line_of_the_script():
    found = place(SCRIPT)
    assert (found.source, found.library) == ("me/train.py:4", "")
    assert found.nearest == "__main__"


def test_the_innermost_library_in_between():
    found = place(
        SCRIPT,
        ("megatron.core.a", "/x/site-packages/megatron/core/a.py"),
        ("megatron.core.b", "/x/site-packages/megatron/core/b.py"),
        ("typing_extensions", "/x/site-packages/typing_extensions.py"),
        ("torch.distributed.distributed_c10d", "/x/torch/distributed/c.py"),
    )
    assert (found.source, found.library) == ("me/train.py:4", "megatron/core/b.py:4")
    assert found.nearest == "torch.distributed.distributed_c10d"


def test_a_library_around_the_script_is_not_in_between():
    found = place(("megatron.core.a", "/x/megatron/core/a.py"), SCRIPT)
    assert (found.source, found.library) == ("me/train.py:4", "")


def test_examples_of_ttrace_are_scripts():
    found = place(("ttrace.examples.gpt.loop", "/x/examples/gpt/loop.py"))
    assert found.source == "gpt/loop.py:4"


def test_modules_that_run_are_named_innermost_first():
    class Asks(nn.Module):
        def forward(self, x):
            self.found = place_of_program(False)
            return x

    asks = Asks()
    outer = nn.Sequential(nn.Sequential(asks))
    outer(torch.ones(1))
    assert asks.found.modules == (asks, outer[0], outer)


def test_a_backward_pass_hides_what_is_around_it():
    found = []

    class Asks(nn.Module):
        def forward(self, x):
            y = x * 1
            y.register_hook(lambda _: found.append(place_of_program(True)))
            y.sum().backward()
            return x

    Asks()(torch.ones(1, requires_grad=True))
    assert found[0].modules == ()
