"""Which modules are named, of models with bugs in certain places."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.factories.isolated_runs import Runs, training
from ttrace.isolation.isolating import report_obstacle, runs_obstacle
from ttrace.report.isolation import Isolation


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


class Wrong(nn.Linear):
    """A linear layer whose result is a bit off."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 1.01


class _WrongBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor):
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any):
        return gradients[0] * 1.01


class WrongBack(nn.Linear):
    """One whose input gets a gradient that is a bit off."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(_WrongBack.apply(input))


class Block(nn.Module):
    """Two layers beside a residual; ``between`` and ``after`` are its own code."""

    def __init__(self, *, between=1.0, after=1.0, up=nn.Linear, down=nn.Linear):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.act, self.down = up(6, 8), nn.GELU(), down(8, 6)
        self.between, self.after = between, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.up(self.norm(x)))
        return (x + self.down(y * self.between)) * self.after


class Model(nn.Module):
    """Some blocks; each may be recomputed, or run twice."""

    def __init__(self, *blocks: nn.Module, recomputes=False, times=1):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(6, 6)
        self.recomputes, self.times = recomputes, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            for _ in range(self.times):
                x = (
                    checkpoint(block, x, use_reentrant=False)
                    if self.recomputes
                    else block(x)
                )
        return self.head(x)


def clean() -> nn.Module:
    return Model(Block(), Block(), Block())


CLEAN = training(clean)


def names(isolation: Isolation) -> list[str]:
    assert isolation.obstacle == ""
    assert not isolation.notes and not isolation.left_out
    return [place.module for place in isolation.isolated]


def test_a_clean_run_names_nothing(runs):
    report, isolation = runs.isolated(CLEAN, CLEAN)
    assert names(isolation) == [] and isolation.step == 0
    assert not report.failed()
    # Of each of 2 micro-batches: 17 calls of modules, each with both.
    assert isolation.num_overwritten == 2 * 17 * 2


CASES = {
    "forward": (lambda: Model(Block(), Block(down=Wrong), Block()), ["blocks.1.down"]),
    "backward": (
        lambda: Model(Block(), Block(up=WrongBack), Block()),
        ["blocks.1.up"],
    ),
    "between": (lambda: Model(Block(between=1.01), Block(), Block()), ["blocks.0"]),
    "own-code": (lambda: Model(Block(), Block(after=1.01), Block()), ["blocks.1"]),
    "two": (
        lambda: Model(Block(up=Wrong), Block(), Block(down=Wrong)),
        ["blocks.0.up", "blocks.2.down"],
    ),
    "two-in-a-row": (
        lambda: Model(Block(up=Wrong, down=Wrong), Block(), Block()),
        ["blocks.0.up", "blocks.0.down"],
    ),
    "forward-and-backward": (
        lambda: Model(Block(up=WrongBack), Block(), Block(down=Wrong)),
        ["blocks.2.down", "blocks.0.up"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_exactly_the_wrong_modules_are_named(runs, case):
    make, expected = CASES[case]
    report, isolation = runs.isolated(CLEAN, training(make))
    assert names(isolation) == expected
    assert len(report.failed()) > sum(len(p.ids) for p in isolation.isolated)


def test_a_place_says_what_is_wrong_there(runs):
    _, isolation = runs.isolated(
        CLEAN, training(lambda: Model(Block(), Block(up=Wrong), Block()))
    )
    (place,) = isolation.isolated
    assert place.kinds == ("output", "grad_input", "param_grad")
    assert place.margin is not None and place.margin > 100
    assert place.ids[:2] == (
        "step0/mb0/blocks.1.up/output/0",
        "step0/mb1/blocks.1.up/output/0",
    )
    assert place.sentence.startswith("output 0 of blocks.1.up: rel_err 0.01 exceeds")
    assert place.num_alike == 0


def test_the_same_bug_in_all_layers_is_one_place(runs):
    _, isolation = runs.isolated(
        CLEAN, training(lambda: Model(*(Block(up=Wrong) for _ in range(3))))
    )
    (place,) = isolation.isolated
    assert place.module == "blocks.0.up" and place.num_alike == 2
    assert "output 0 of blocks.0.up (and 2 more like it)" in place.sentence


def test_code_between_modules_is_that_of_the_module_around(runs):
    _, isolation = runs.isolated(
        CLEAN, training(lambda: Model(Block(), Block(between=1.01), Block()))
    )
    (place,) = isolation.isolated
    assert place.kinds == ("input", "grad_output")  # of the layers on either side
    assert "input 0 of blocks.1.down, as it comes to that module" in place.sentence
    assert "agrees: look at the code of blocks.1 around it" in place.sentence


def test_the_loss_is_named_where_the_model_is_right(runs):
    _, isolation = runs.isolated(CLEAN, training(clean, loss_factor=2.0))
    (place,) = isolation.isolated
    assert place.module == "@root" and place.kinds == ("grad_output",)
    assert "look at the loss and what scales it" in place.sentence


@pytest.mark.parametrize("options", [{"recomputes": True}, {"times": 2}])
def test_recomputed_and_repeated_calls_get_their_own_values(runs, options):
    def wrong() -> nn.Module:
        return Model(Block(), Block(down=Wrong), **options)

    def right() -> nn.Module:
        return Model(Block(), Block(), **options)

    _, isolation = runs.isolated(training(right), training(wrong))
    assert names(isolation) == ["blocks.1.down"]
    _, isolation = runs.isolated(training(right), training(right))
    assert names(isolation) == []


def test_a_coarser_candidate_gets_values_in_its_own_dtype(runs):
    def wrong() -> nn.Module:
        return Model(Block(), Block(after=1.5))

    _, isolation = runs.isolated(
        training(lambda: Model(Block(), Block())),
        training(wrong, dtype=torch.bfloat16),
    )
    assert [place.module for place in isolation.isolated] == ["blocks.1"]
    assert isolation.num_overwritten > 0 and not isolation.left_out


class FromSecondCall(nn.Linear):
    """Wrong from its third call on, which is in the second step."""

    calls = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(input) * (1.01 if self.calls > 2 else 1)


def test_it_is_the_first_step_that_diverges(runs):
    _, isolation = runs.isolated(
        training(clean, num_steps=3),
        training(
            lambda: Model(Block(), Block(up=FromSecondCall), Block()), num_steps=3
        ),
    )
    assert isolation.step == 1 and names(isolation) == ["blocks.1.up"]


def test_a_run_that_does_not_repeat_itself_is_told(runs):
    def other() -> nn.Module:
        torch.manual_seed(7)
        return clean()

    _, isolation = runs.isolated(
        CLEAN,
        training(lambda: Model(Block(up=Wrong), Block(), Block())),
        again=training(other),
    )
    (note,) = isolation.notes
    assert note.startswith(
        "the candidate did not repeat itself: step0/blocks.0.norm/param/weight"
    ) or note.startswith("the candidate did not repeat itself: step0/")
    assert "in the second run" in note


def test_a_run_that_fails_leaves_the_reason(runs):
    from ttrace.errors import CommandError

    def fail() -> None:
        raise CommandError("the candidate command failed", remedy="see its log")

    _, isolation = runs.isolated(
        CLEAN, training(lambda: Model(Block(), Block(), Block())), again=fail
    )
    assert isolation.isolated == () and "the candidate command failed" in (
        isolation.obstacle
    )
    assert isolation.obstacle.endswith("to do: see its log")


def test_where_nothing_is_handed_on_there_is_no_run(runs):
    report, _ = runs.isolated(CLEAN, training(clean, learning_rate=0.2))
    assert report.failed()
    assert "forward and backward agree" in (report_obstacle(report) or "")
    report, _ = runs.isolated(CLEAN, CLEAN)
    assert report_obstacle(report) is None


def test_other_parameters_are_no_case_for_it(runs):
    def other() -> nn.Module:
        torch.manual_seed(7)
        return clean()

    report, _ = runs.isolated(CLEAN, training(other))
    assert "mend the set-up first" in (report_obstacle(report) or "")


def test_what_was_not_recorded_cannot_be_put_in(runs):
    from ttrace.ir.capture_filter import CaptureFilter
    from ttrace.ir.kinds import Kind

    trace = runs.record(CLEAN)
    gradients = runs.record(
        CLEAN, capture=CaptureFilter(kinds=frozenset({Kind.MAIN_GRAD}))
    )
    assert runs_obstacle(trace.info, trace.info) == ""
    assert "of the candidate was recorded" in runs_obstacle(trace.info, gradients.info)
    assert "of the reference was recorded" in runs_obstacle(gradients.info, trace.info)


class Writes(nn.Module):
    """Halves its input in place, and returns something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x.mul_(0.5)
        return torch.ones_like(x)


class Written(nn.Module):
    """Uses a tensor that a module within wrote into."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.writes, self.layer, self.factor = Writes(), nn.Linear(6, 6), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scratch = x.detach().clone()
        ones = self.writes(scratch)
        return self.layer(x + scratch) * ones * self.factor


def test_what_a_module_writes_into_its_input_reaches_the_caller(runs):
    right = training(Written)
    _, isolation = runs.isolated(right, right)
    assert names(isolation) == []
    _, isolation = runs.isolated(right, training(lambda: Written(1.01)))
    assert names(isolation) == ["@root"]


class Between(Model):
    """Has code of its own between its blocks, which a list holds."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x * 1.01)
        return self.head(x)


def test_what_only_holds_modules_is_not_named(runs):
    _, isolation = runs.isolated(
        CLEAN, training(lambda: Between(Block(), Block(), Block()))
    )
    (place,) = isolation.isolated
    assert place.module == "@root" and "code of the model itself" in place.sentence


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_script_calls_within_a_model_is_followed_by_the_loss(
    runs, monkeypatch, compiled
):
    """Also where the process has compiled something, which the model might be in."""
    monkeypatch.setattr(
        "ttrace.frontends.torch_parts.hooks.has_compiled", lambda: compiled
    )

    def held() -> nn.Module:
        return nn.ModuleDict({"net": clean()})

    right = training(held, called="net")
    wrong = training(held, called="net", loss_factor=2.0)
    _, isolation = runs.isolated(right, wrong)
    (place,) = isolation.isolated
    assert place.module == "@root"
    assert place.sentence.startswith("grad_output 0 of net")
    assert "as it comes from what follows the model" in place.sentence
    assert "look at the loss and what scales it" in place.sentence


class Adapted(nn.Module):
    """Beside a layer a branch that begins with a module which does nothing."""

    def __init__(self, up=nn.Linear):
        super().__init__()
        self.layer, self.down, self.up = nn.Linear(6, 6), nn.Linear(6, 2), up(2, 6)
        self.dropout = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(self.dropout(x)))


def test_what_hands_its_input_through_is_not_named(runs):
    right = training(lambda: Model(Adapted(), Adapted()))
    report, isolation = runs.isolated(right, right)
    assert isolation.isolated == () and not report.failed()
    (reason,) = isolation.left_out  # of the two that hand it through
    assert "the module returns what a module around it was given, too" in reason
    wrong = training(lambda: Model(Adapted(), Adapted(up=Wrong)))
    _, isolation = runs.isolated(right, wrong)
    assert [place.module for place in isolation.isolated] == ["blocks.1.up"]
