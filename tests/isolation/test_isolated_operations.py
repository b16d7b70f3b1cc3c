"""Which operation is named inside of a module that is wrong, of one process."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.factories.isolated_runs import Runs, training
from ttrace.errors import CommandError
from ttrace.ir.kinds import Kind
from ttrace.judge.reading import own_faults
from ttrace.report.isolation import IsolatedPlace, OperationFinding

HERE = "tests/isolation/test_isolated_operations.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


class Attention(nn.Module):
    """Attention of one head; bugs by name."""

    def __init__(self, bug: str = ""):
        super().__init__()
        self.qkv, self.out, self.bug = nn.Linear(6, 18), nn.Linear(6, 6), bug

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-1, -2)
        if self.bug == "scale":
            scores = scores * 0.5
        elif self.bug != "unscaled":
            scores = scores / math.sqrt(6)
        weights = scores.softmax(0 if self.bug == "dim" else -1)
        y = weights @ (k if self.bug == "key" else v)
        if self.bug == "twice":
            y = y * 2.0
        return self.out(y)


class Model(nn.Module):
    """A norm, and the attention."""

    def __init__(self, bug: str = "", eps: float = 1e-5):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(6, eps=eps), Attention(bug)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attention(self.norm(x))


RIGHT = training(Model)


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if text in line)
    return f"{HERE}:{number}"


def place_of(runs: Runs, make: Callable[[], nn.Module]) -> IsolatedPlace:
    _, isolation = runs.isolated(RIGHT, training(make), inside=True)
    assert not isolation.obstacle and not isolation.notes
    (place,) = isolation.isolated
    return place


def found_in(runs: Runs, make: Callable[[], nn.Module]) -> OperationFinding:
    found = place_of(runs, make).operation
    assert found is not None
    return found


SCALED = "scores = scores / math.sqrt(6)"

CASES = {
    "scale": ("mul", "scores = scores * 0.5", "other_result", SCALED),
    "unscaled": ("softmax", "weights = scores.softmax", "missing", SCALED),
    "dim": ("softmax", "weights = scores.softmax", "other_result", "scores.softmax"),
    "key": ("bmm", "y = weights @ (k", "other_operands", "y = weights @ (k"),
    "twice": ("mul", "y = y * 2.0", "extra", None),
}


@pytest.mark.parametrize("bug", CASES)
def test_the_line_is_named(runs, bug):
    name, line, what, other = CASES[bug]
    found = found_in(runs, lambda: Model(bug))
    assert found.source == line_of(line)
    assert found.what == what
    assert found.reference_source == ("" if other is None else line_of(other))
    assert f"at {found.source}" in found.sentence


def test_an_operation_that_stands_for_another_one_is_set_against_it(runs):
    found = found_in(runs, lambda: Model("scale"))
    assert (found.name, found.reference_name) == ("mul", "div")
    assert found.factor == pytest.approx(0.5 * math.sqrt(6))
    assert "its operands agree, its result is 1.22 times that of the" in found.sentence


def test_a_constant_of_a_layer_of_torch_is_told(runs):
    found = found_in(runs, lambda: Model(eps=0.1))
    assert (found.name, found.what) == ("native_layer_norm", "other_result")
    assert "(eps is 1e-05 there and 0.1 here)" in found.sentence
    assert found.source == line_of("return x + self.attention(self.norm(x))")


class _Scaled(torch.autograd.Function):
    """The gradient may be wrong."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any):
        return gradients[0] * ctx.factor, None


class Back(nn.Module):
    """Its own code has a function with a backward of its own."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.up, self.factor = nn.Linear(6, 6), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x).tanh()
        return _Scaled.apply(y, self.factor) + x


def test_a_backward_that_is_wrong_is_named_with_its_line(runs):
    _, isolation = runs.isolated(
        training(Back), training(lambda: Back(0.5)), inside=True
    )
    (place,) = isolation.isolated
    found = place.operation
    assert found is not None and not isolation.notes
    assert (found.name, found.what) == ("ScaledBackward", "other_result")
    assert found.source == line_of("return gradients[0] * ctx.factor, None")
    assert found.sentence.startswith("on the way back, inside, the first operation")
    assert found.factor == pytest.approx(0.5)


def test_a_right_run_has_no_place_and_makes_no_further_run(runs):
    _, isolation = runs.isolated(RIGHT, RIGHT, inside=True)
    assert isolation.isolated == () and not isolation.notes


def test_without_the_command_of_the_reference_it_is_said_what_that_adds(runs):
    _, isolation = runs.isolated(
        RIGHT, training(lambda: Model("dim")), inside=True, reruns_reference=False
    )
    (place,), (note,) = isolation.isolated, isolation.notes
    assert place.operation is None
    assert "give the command of the reference, too (--reference)" in note


def notes_of(runs: Runs) -> tuple[str, ...]:
    """Where nothing inside can be told, the place stands all the same."""
    _, isolation = runs.isolated(RIGHT, training(lambda: Model("dim")), inside=True)
    (place,) = isolation.isolated
    assert place.module == "attention" and place.operation is None
    assert isolation.obstacle == ""
    return isolation.notes


def test_a_run_that_fails_is_told(runs, monkeypatch):
    record = runs.record

    def fails(train, **request):
        capture = request.get("capture")
        if capture is not None and capture.wants_kind(Kind.OP):
            raise CommandError("the command failed", remedy="see its log")
        return record(train, **request)

    monkeypatch.setattr(runs, "record", fails)
    (note,) = notes_of(runs)
    assert note.endswith("one more run of each: the command failed; to do: see its log")


class Chain(nn.Module):
    """Only calls modules, one of them perhaps on something else."""

    def __init__(self, *, skips: bool):
        super().__init__()
        self.first, self.second, self.skips = nn.Linear(6, 6), nn.Linear(6, 6), skips

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(x if self.skips else y)


def test_a_module_that_runs_no_operation_itself_is_told(runs):
    _, isolation = runs.isolated(
        training(lambda: Chain(skips=False)),
        training(lambda: Chain(skips=True)),
        inside=True,
    )
    assert "@root" in [place.module for place in isolation.isolated]
    assert [note for note in isolation.notes if note.startswith("inside @root, ")] == [
        "inside @root, what is wrong is not among the results of its own operations, "
        "so that none of them is named"
    ]


def test_a_fault_of_ttrace_is_told(runs, monkeypatch):
    def fails(*args, **kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(own_faults, "warn_of_fault", lambda find, error: None)
    monkeypatch.setattr("ttrace.isolation.operations.inside.first_difference", fails)
    (note,) = notes_of(runs)
    assert note.startswith("ttrace itself failed where it looked for the operation")


def test_a_frontend_that_records_none_is_told_and_nothing_runs(runs, monkeypatch):
    known = "ttrace.isolation.operations.inside.OPERATION_FRAMEWORKS"
    monkeypatch.setattr(known, frozenset({"megatron"}))
    (note,) = notes_of(runs)
    assert "the frontend torch records no operations" in note


def test_a_hook_of_the_script_is_code_of_the_module(runs):
    class Hooked(Model):
        def __init__(self):
            super().__init__()
            self.attention.register_forward_hook(lambda m, i, o: torch.mul(o, 2))  # pyright: ignore

    found = found_in(runs, Hooked)
    assert (found.name, found.what) == ("mul", "extra")
    assert found.source == line_of(
        "register_forward_hook(lambda m, i, o: torch.mul(o, 2))"
    )
