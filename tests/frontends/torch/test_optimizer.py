from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ttrace.frontends.torch_parts import optimizer_values
from ttrace.frontends.torch_parts.clips import observed_clips
from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.optimizers import OptimizerTap
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest


def tapped(model: nn.Module, optimizer: torch.optim.Optimizer, **options):
    sink = MemorySink()
    session = CaptureSession(
        PlainDescription(model),
        RecordRequest(out=Path("unused")),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
    )
    tap = OptimizerTap(optimizer, session, **options)
    session.start()
    tap.attach()
    return session, tap, sink


def test_a_step_is_recorded_from_both_sides():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    session, tap, sink = tapped(model, optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        model(torch.tensor([3.0, 4.0])).sum().backward()
        optimizer.step()
        scheduler.step()
        session.step()
    tap.detach()
    session.close()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    total = torch.cat([g.reshape(-1) for g in grads]).double().norm()
    np.testing.assert_allclose(sink.arrays["step1/@root/grad_norm"], total.item())
    rates = [sink.arrays[f"step{s}/@root/learning_rate/group0"].item() for s in (0, 1)]
    assert rates == [0.5, 0.25]
    assert torch.equal(
        torch.tensor(sink.arrays["step1/@root/updated_param/weight"]), model.weight
    )
    state = optimizer.state[model.weight]
    for name in ("exp_avg", "exp_avg_sq", "step"):
        array = sink.arrays[f"step1/@root/optimizer_state/weight.{name}"]
        assert torch.equal(torch.tensor(array), state[name])
    assert not optimizer._optimizer_step_pre_hooks


def test_gradients_can_be_recorded_before_they_are_clipped():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters())
    session, tap, sink = tapped(model, optimizer)
    model(torch.tensor([3.0, 4.0])).sum().backward()
    tap.record_gradients()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    session.close()
    assert sink.arrays["step0/@root/main_grad/weight"].tolist() == [[3.0, 4.0]]
    assert sink.arrays["step0/@root/grad_norm"] == pytest.approx(5.0)


def test_parameters_without_gradient_or_of_another_optimizer_are_left_out():
    model = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)])
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[1].parameters()])
    session, _, sink = tapped(model, optimizer)
    model[0](torch.ones(1)).sum().backward()
    optimizer.step()
    session.close()
    assert [t for t in sink.records if "main_grad" in t] == [
        "step0/0/main_grad/weight",
        "step0/0/main_grad/bias",
    ]
    assert {r.id.module for r in sink.records.values() if r.id.kind == "updated_param"}
    assert not any(t.startswith("step0/2/updated_param") for t in sink.records)
    assert not optimizer.state  # looking must not fill it


def test_factored_state_is_skipped_with_the_reason():
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.Adafactor(model.parameters())
    session, _, sink = tapped(model, optimizer)
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    session.close()
    reason = sink.skipped["step0/@root/optimizer_state/weight.row_var"]
    assert "its layout is for [4, 4]" in reason


def test_a_norm_is_left_out_where_gradients_are_sparse():
    model = nn.Embedding(3, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters())
    session, _, sink = tapped(model, optimizer)
    model(torch.tensor([1])).sum().backward()
    optimizer.step()
    session.close()
    assert "step0/@root/grad_norm" not in sink.records
    assert "step0/@root/main_grad/weight" in sink.skipped


class _Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.tensor([3 + 4j, 1 - 2j]))
        self.bias = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return (x * self.kernel).real + self.bias


def test_complex_parameters_are_part_of_the_norm():
    model = _Complex()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    session, _, sink = tapped(model, optimizer)
    model(torch.tensor([3.0, 4.0])).sum().backward()
    optimizer.step()
    session.close()
    assert sink.arrays["step0/@root/grad_norm"] == pytest.approx((25 + 2) ** 0.5)
    assert sink.arrays["step0/@root/learning_rate/group0"] == 0.5
    assert sink.skipped["step0/@root/updated_param/kernel"] == (
        "the dtype torch.complex64 cannot be stored in a trace"
    )


def test_what_fails_at_one_thing_leaves_the_others(monkeypatch):
    def fail(gradients):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(optimizer_values, "total_norm", fail)
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    session, _, sink = tapped(model, optimizer)
    model(torch.tensor([3.0, 4.0])).sum().backward()
    optimizer.step()
    session.close()
    assert sink.arrays["step0/@root/learning_rate/group0"] == 0.5
    assert "step0/@root/updated_param/weight" in sink.arrays
    assert "step0/@root/main_grad/weight" in sink.arrays


def test_a_norm_of_stages_that_have_an_optimizer_each_is_that_of_all():
    """As of a rank with two stages of a pipeline, which sums over the ranks itself."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    session, tap, sink = tapped(model, optimizers[0], holds_whole_model=False)
    other = OptimizerTap(
        optimizers[1], session, first_group=1, holds_whole_model=False, leader=tap
    )
    other.attach()
    parameters = list(model.parameters())
    with observed_clips([tap, other]):
        for given in (parameters, parameters[:1]):
            model(torch.tensor([3.0, 4.0])).sum().backward()
            nn.utils.clip_grads_with_norm_(given, 1.0, torch.tensor(7.0))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            session.step()
    session.close()
    assert sink.arrays["step0/@root/grad_norm"] == 7.0
    assert "step1/@root/grad_norm" in sink.skipped  # of the first stage alone
    for step in range(2):
        assert f"step{step}/1/main_grad/weight" in sink.records
        assert f"step{step}/@root/grad_norm/group1" not in sink.records


def test_a_norm_of_a_part_of_the_gradients_is_never_computed():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session, tap, sink = tapped(model, optimizer, holds_whole_model=False)
    model(torch.tensor([3.0, 4.0])).sum().backward()
    optimizer.step()
    session.step()
    tap.record_gradients(torch.tensor(7.0))
    optimizer.step()
    session.close()
    assert "trace.main_grads(grad_norm=...)" in sink.skipped["step0/@root/grad_norm"]
    assert sink.arrays["step1/@root/grad_norm"] == 7.0
    assert "step0/@root/main_grad/weight" in sink.records
