"""Gradient scalers of plain torch: a step that they skip is recorded as skipped."""

import numpy as np
import pytest
import torch
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.skipped_step import overflow_reason, skipped_steps
from ttrace.ir.step_notes import UNSCALED_BACKWARDS
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

TOO_LARGE = 1.5 * 2.0**122
"""A gradient of 64 overflows float32 at this loss scale, and not at half of it."""


def train(
    scale: float, *, num_steps: int = 4, enabled: bool = True, clips: bool = False
) -> nn.Linear:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(num_steps):
            scaler.scale(model(torch.tensor([64.0, 1.0])).sum()).backward()
            if clips:
                scaler.unscale_(optimizer)
                trace.main_grads()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            trace.step()
    return model


def train_unscaled(scale: float, *, num_scaled: int) -> None:
    """The first few backwards start from the scaled loss, the others do not."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(3):
            loss = model(torch.tensor([64.0, 1.0])).sum()
            scaled = scaler.scale(loss)
            (scaled if step < num_scaled else loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            trace.step()


@pytest.mark.parametrize(
    ("num_scaled", "stated"),
    [(3, {}), (1, {"unscaled_backwards.8": "8 in steps 1, 2"})],
)
def test_a_backward_that_does_not_start_from_the_scaled_loss_is_noted(
    tmp_path, monkeypatch, num_scaled, stated
):
    request = RecordRequest(out=tmp_path / "trace")
    for variable, value in request.to_environment().items():
        monkeypatch.setenv(variable, value)
    train_unscaled(8.0, num_scaled=num_scaled)
    settings = open_trace(tmp_path / "trace").info.ranks[0].settings
    notes = {k: v for k, v in settings.items() if k.startswith(UNSCALED_BACKWARDS)}
    assert notes == stated


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Trains while recording, into a trace of its own."""

    def recorded(name: str, *arguments, filters=None, **options) -> Trace:
        out = tmp_path / name
        request = RecordRequest(out=out, capture=CaptureFilter(**(filters or {})))
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        train(*arguments, **options)
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(out)

    return recorded


def compare(reference: Trace, candidate: Trace):
    return compare_traces(reference, candidate, NumpyBackend())


@pytest.mark.parametrize("clips", [False, True])
def test_skipped_steps_are_recorded_with_their_loss_scale(record, clips):
    trace = record("trace", TOO_LARGE / 2, clips=clips)
    assert skipped_steps(trace.info) == {}
    trace = record("overflow", TOO_LARGE, clips=clips)
    assert skipped_steps(trace.info) == {0: overflow_reason(0, TOO_LARGE)}


def test_what_a_skipped_step_was_given_and_left_as_it_was(record):
    trace = record("trace", TOO_LARGE)
    arrays = {str(id_): t.shards[0] for id_, t in trace.info.tensors.items()}
    kinds = ("main_grad/weight", "updated_param/weight", "learning_rate/group0")
    for step in range(2):
        assert {f"step{step}/@root/{kind}" for kind in kinds} <= arrays.keys()
    before = trace.load(arrays["step0/@root/param/weight"])
    np.testing.assert_array_equal(
        trace.load(arrays["step0/@root/updated_param/weight"]), before
    )
    assert (trace.load(arrays["step1/@root/updated_param/weight"]) != before).any()
    assert not np.isfinite(trace.load(arrays["step0/@root/main_grad/weight"])).all()


def test_runs_that_skip_the_same_steps_pass(record):
    traces = [record(name, TOO_LARGE) for name in ("reference", "candidate")]
    report = compare(*traces)
    assert report.verdict is Outcome.PASS, report.summary
    skipped = {tensor.kind for tensor in report.tensors if tensor.status == "skipped"}
    assert skipped == {"grad_output", "param_grad", "main_grad", "grad_norm"}


def test_a_run_that_skips_alone_diverges(record):
    report = compare(record("reference", 1.0), record("candidate", TOO_LARGE))
    assert report.verdict is Outcome.DIVERGED
    codes = [diagnosis.code for diagnosis in report.diagnosis]
    assert codes[0] == "step_skipped"


def test_a_filter_of_kinds_keeps_the_note(record):
    trace = record("trace", TOO_LARGE, filters={"kinds": {Kind.PARAM}})
    assert list(skipped_steps(trace.info)) == [0]


def test_a_scaler_that_is_off_skips_nothing(record):
    trace = record("trace", TOO_LARGE, enabled=False)
    assert skipped_steps(trace.info) == {}


def test_the_run_is_the_same_without_a_trace(record, monkeypatch):
    monkeypatch.delenv(RECORD_VARIABLE, raising=False)
    original = torch.amp.GradScaler.step
    expected = train(TOO_LARGE).weight
    trace = record("trace", TOO_LARGE)
    weight = trace.info.tensors[parse_tensor_id("step3/@root/updated_param/weight")]
    np.testing.assert_array_equal(
        trace.load(weight.shards[0]), expected.detach().numpy()
    )
    assert torch.amp.GradScaler.step is original
