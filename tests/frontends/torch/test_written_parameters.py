"""Parameters that a script writes to after the optimizer's step."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.fingerprints import fingerprint_of
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import Trace, open_trace


class Model(nn.Module):
    """A layer that is trained, and one that no optimizer holds."""

    def __init__(self):
        super().__init__()
        self.trained = nn.Linear(4, 3)
        self.frozen = nn.Linear(4, 3).requires_grad_(False)

    def forward(self, x):
        return self.trained(x) + self.frozen(x)


Write = Callable[[Model, int], None]


def train(write: Write, *, with_optimizer: bool = True) -> Model:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.trained.parameters(), lr=0.1, momentum=0.9)
    given = (optimizer,) if with_optimizer else ()
    with torch_capture.trace(model, *given) as trace:
        for step in range(2):
            model(torch.randn(2, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                write(model, step)
            trace.step()
    return model


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(write: Write, filters=None, **options) -> tuple[Model, Trace]:
        request = RecordRequest(
            out=tmp_path / "trace", capture=CaptureFilter(**(filters or {}))
        )
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        model = train(write, **options)
        monkeypatch.delenv(RECORD_VARIABLE)
        return model, open_trace(tmp_path / "trace")

    return recorded


def written(trace: Trace) -> list[str]:
    assert not trace.info.skipped
    return [str(i) for i in trace.info.tensors if i.kind is Kind.WRITTEN_PARAM]


def nothing(model: Model, step: int) -> None:
    pass


def clamp(model: Model, step: int) -> None:
    if step == 1:
        model.trained.weight.clamp_(-0.1, 0.1)


def clamp_data(model: Model, step: int) -> None:
    if step == 1:
        model.trained.weight.data.clamp_(-0.1, 0.1)


def replace_data(model: Model, step: int) -> None:
    if step == 1:
        model.trained.weight.data = model.trained.weight.data * 0.5


def average(model: Model, step: int) -> None:
    model.frozen.bias.lerp_(model.trained.bias, 0.5)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (nothing, []),
        (clamp, ["step1/trained/written_param/weight"]),
        (clamp_data, ["step1/trained/written_param/weight"]),
        (replace_data, ["step1/trained/written_param/weight"]),
        (average, [f"step{n}/frozen/written_param/bias" for n in range(2)]),
    ],
)
def test_only_what_was_written_to_is_recorded_again(record, write, expected):
    model, trace = record(write)
    assert written(trace) == expected
    for name in expected[-1:]:
        (shard,) = trace.info.tensors[parse_tensor_id(name)].shards
        module, slot = name.split("/")[1::2]
        now = model.get_submodule(module).get_parameter(slot).detach()
        np.testing.assert_array_equal(trace.load(shard), now)


def test_a_write_of_the_same_values_is_none(record):
    _, trace = record(lambda model, step: model.trained.weight.clamp_(-1e9, 1e9))
    assert written(trace) == []


def test_it_comes_with_updated_param(record):
    kinds = frozenset({Kind.UPDATED_PARAM})
    _, trace = record(clamp, filters={"kinds": kinds})
    assert written(trace) == ["step1/trained/written_param/weight"]


def test_other_kinds_do_not_ask_for_it(record):
    _, trace = record(clamp, filters={"kinds": frozenset({Kind.MAIN_GRAD})})
    assert written(trace) == []


def test_a_step_that_is_not_recorded_does_not_count(record):
    _, trace = record(clamp, filters={"steps": frozenset({0})})
    assert written(trace) == []


def test_without_an_optimizer_nobody_looks(record):
    _, trace = record(average, with_optimizer=False)
    assert written(trace) == []


def test_looking_changes_nothing(record):
    traced, _ = record(average)
    for ours, plain in zip(
        traced.parameters(), train(average).parameters(), strict=True
    ):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (70, 300)])
def test_fingerprints(dtype, shape):
    torch.manual_seed(0)
    tensor = torch.randn(shape).to(dtype)
    first = fingerprint_of(tensor)
    assert first == fingerprint_of(tensor.clone()) is not None
    assert first == fingerprint_of(torch.cat([tensor, tensor])[shape[0] :])
    assert first != fingerprint_of(tensor.flip(0)), "rows that change places"
    assert first != fingerprint_of(tensor.roll(1, 1))
    assert first != fingerprint_of(tensor.t().contiguous())
    for place in (0, -1):
        other = tensor.clone()
        other.view(-1)[place] += 0.25
        assert fingerprint_of(other) != first
    assert fingerprint_of(tensor.t()) == fingerprint_of(tensor.t().contiguous())


def test_words_that_begin_within_another_one():
    tensor = torch.arange(20_000, dtype=torch.bfloat16)
    assert fingerprint_of(tensor[1:]) == fingerprint_of(tensor[1:].clone())


def test_what_a_trace_cannot_hold_has_no_fingerprint():
    assert fingerprint_of(torch.ones(3, device="meta")) is None
    assert fingerprint_of(torch.ones(3, dtype=torch.complex64)) is None
