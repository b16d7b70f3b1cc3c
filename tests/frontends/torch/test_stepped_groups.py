"""Optimizers that are stepped once for each group, as DeepSpeed does it."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from ttrace.compare.backend import load_backend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.stepped_groups import SteppedGroups
from ttrace.ir.kinds import Kind
from ttrace.ir.parameter_groups import groups_in
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace


def step_whole(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()


def step_by_group(optimizer: torch.optim.Optimizer) -> None:
    groups = optimizer.param_groups
    for group in groups:
        optimizer.param_groups = [group]
        optimizer.step()
    optimizer.param_groups = groups


def recorded(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    step=step_whole,
    rates=(1e-2, 3e-2),
    repeats: int = 1,
    clipping: float = 0.0,
) -> Trace:
    for name, value in RecordRequest(out=folder).to_environment().items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "lr": rates[0], "weight_decay": 0.1},
            {"params": biases, "lr": rates[1], "weight_decay": 0.0},
        ]
    )
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            model(torch.ones(2, 4)).square().sum().backward()
            if clipping:
                nn.utils.clip_grad_norm_(model.parameters(), clipping)
            for _ in range(repeats):
                step(optimizer)
            optimizer.zero_grad()
            trace.step()
    return open_trace(folder)


def test_steps_of_the_groups_are_one_step(tmp_path, monkeypatch, caplog):
    whole = recorded(tmp_path / "a", monkeypatch, step_whole)
    with caplog.at_level(logging.WARNING):
        parts = recorded(tmp_path / "b", monkeypatch, step_by_group)
    assert "second step" not in caplog.text
    norms = {id_ for id_ in whole.info.tensors if id_.kind is Kind.GRAD_NORM}
    assert set(whole.info.tensors) - set(parts.info.tensors) == norms
    assert set(parts.info.tensors) < set(whole.info.tensors)
    assert all("one group of" in parts.info.skipped[id_].reason for id_ in norms)
    assert not [s for s in parts.info.skipped.values() if s.came_twice]
    report = compare_traces(whole, parts, load_backend("numpy"))
    assert report.verdict is Outcome.PASS, report.summary


def test_gradients_that_are_clipped_before_are_recorded_once(tmp_path, monkeypatch):
    whole = recorded(tmp_path / "a", monkeypatch, clipping=0.1)
    parts = recorded(tmp_path / "b", monkeypatch, step_by_group, clipping=0.1)
    assert set(parts.info.tensors) == set(whole.info.tensors)
    assert not parts.info.skipped
    report = compare_traces(whole, parts, load_backend("numpy"))
    assert report.verdict is Outcome.PASS, report.summary


def test_another_rate_of_a_group_is_found(tmp_path, monkeypatch):
    whole = recorded(tmp_path / "a", monkeypatch, step_whole)
    parts = recorded(tmp_path / "b", monkeypatch, step_by_group, rates=(1e-2, 2e-2))
    report = compare_traces(whole, parts, load_backend("numpy"))
    assert report.verdict is Outcome.DIVERGED
    (found,) = [d for d in report.diagnosis if d.code == "group_rates"]
    assert "that of group 1 (0.bias and 1 more) is 0.02" in found.sentence


def test_a_second_step_of_all_groups_is_still_told(tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        recorded(tmp_path / "a", monkeypatch, step_by_group, repeats=2)
    assert "the optimizer has taken a second step in step 0" in caplog.text


def test_a_trace_names_what_each_group_holds(tmp_path, monkeypatch):
    trace = recorded(tmp_path / "a", monkeypatch, step_whole)
    assert groups_in(trace.info.ranks[0].settings) == {
        "group0": {("0", "weight"), ("1", "weight")},
        "group1": {("0", "bias"), ("1", "bias")},
    }


def test_a_group_that_is_gone_for_good_is_none_any_longer():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1)
    groups = SteppedGroups(optimizer)
    del optimizer.param_groups[1]
    groups.begin_call(0)
    assert len(groups.all()) == 2  # the other may still come
    groups.begin_call(1)
    assert len(groups.all()) == 1 and not groups.is_part
