"""What a torch run says of single steps: when it clips, and what nothing reduced."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.frontends.torch.test_closures_and_clips import record as record
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.gradient_sync import unreduced_modules
from ttrace.ir.kinds import Kind
from ttrace.ir.step_notes import (
    UNREDUCED,
    clips_key,
    is_early_clipping,
    parse_steps_text,
    steps_text,
)

DATA = torch.arange(12.0).reshape(3, 4) / 10


def train(clip, *, clip_again=lambda model: None, stale=False, empty=False):
    """Three micro-batches a step; ``clip`` is called behind each, with its number."""

    def run():
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch_capture.trace(model, optimizer) as trace:
            for _ in range(2):
                if stale:
                    clip_grad_norm_(model.parameters(), 1e-3)
                optimizer.zero_grad()
                if empty:
                    clip_grad_norm_(model.parameters(), 1e-3)
                for number, row in enumerate(DATA):
                    model(row[None]).square().sum().backward()
                    clip(model, number)
                clip_again(model)
                optimizer.step()
                trace.step()

    return run


def last(model, number):
    if number == 2:
        clip_grad_norm_(model.parameters(), 1e-3)


def each(model, number):
    clip_grad_norm_(model.parameters(), 1e-3)


@pytest.mark.parametrize(
    ("clip", "options", "text"),
    [
        (last, {}, "once a step"),
        (each, {}, "3 times a step, 2 of them before they change again"),
        (
            last,
            {"clip_again": lambda model: clip_grad_value_(model.parameters(), 1e-4)},
            "2 times a step",
        ),
        (last, {"stale": True}, "once a step"),
        (last, {"empty": True}, "once a step"),
        (lambda model, number: None, {}, None),
        (
            lambda model, number: clip_grad_norm_(model.parameters(), float("inf")),
            {},
            None,
        ),
    ],
    ids=[
        "last",
        "each",
        "by norm and value",
        "left over",
        "of none",
        "none",
        "without limit",
    ],
)
def test_when_a_step_clips(record, clip, options, text):
    trace = record("trace", train(clip, **options))
    given = {(id_.step, id_.kind) for id_ in trace.info.tensors}
    assert {(0, Kind.MAIN_GRAD), (1, Kind.MAIN_GRAD)} <= given
    assert trace.info.ranks[0].settings.get(clips_key(0)) == text
    assert is_early_clipping(text or "") is (clip is each)


@pytest.fixture
def process() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_modules_that_reduce_nothing(process):
    mesh = init_device_mesh("cpu", (1,))
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert unreduced_modules([("0", model[0])]) is None  # nothing is FSDP2's
    for module in (*model, model):
        fully_shard(module, mesh=mesh)
    named = [("@root", model), ("0", model[0]), ("1", model[1])]
    assert unreduced_modules(named) is None
    model[1].set_requires_gradient_sync(False)  # pyright: ignore
    assert unreduced_modules(named) == "1 module (1)"
    model.set_requires_gradient_sync(False)  # pyright: ignore
    assert unreduced_modules(named) == "2 modules (0, ...)"  # the root holds none


def test_steps_whose_gradients_nothing_reduced(process, record):
    def run():
        model: Any = nn.Linear(4, 3)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch_capture.trace(model, optimizer) as trace:
            for step in range(3):
                model.set_requires_gradient_sync(step == 1)
                model(DATA).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                trace.step()

    text = record("trace", run).info.ranks[0].settings[UNREDUCED]
    assert parse_steps_text(str(text)) == ("1 module (@root)", {0, 2})


def test_many_steps_have_an_end():
    text = steps_text(range(100), "x")
    assert text.endswith(", 15, ...")
    assert parse_steps_text(text) == ("x", frozenset(range(16)))
