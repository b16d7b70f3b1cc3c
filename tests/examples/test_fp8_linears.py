"""The FP8 emulation: grids, saturation, scales, and which gradient passes."""

import pytest

torch = pytest.importorskip("torch")

from ttrace.examples.megatron_gpt import (  # noqa: E402
    cpu_devices,
    warnings_of_megatron,
)

warnings_of_megatron.quiet()
if not torch.cuda.is_available():
    cpu_devices.install()

from ttrace.examples.bug_zoo import fp8_linears  # noqa: E402
from ttrace.examples.bug_zoo.fp8_linears import Quantizer  # noqa: E402


@pytest.fixture
def alone(monkeypatch):
    """The amax of this process is that of all."""
    monkeypatch.setattr(
        fp8_linears,
        "_amax",
        lambda tensor, group: tensor.detach().abs().amax().reshape(1),
    )
    monkeypatch.setattr(Quantizer, "amax_group", lambda self: None)


def test_current_scaling_uses_the_whole_range(alone):
    tensor = torch.tensor([0.5, -2.0, 0.25])
    cast, scale = Quantizer(is_delayed=False)(tensor)
    assert scale.tolist() == [448 / 2]
    assert cast.tolist() == [112, -448, 56]


def test_values_lie_on_the_grid_of_e4m3(alone):
    tensor = torch.linspace(-1, 1, 101)
    cast, _ = Quantizer(is_delayed=False)(tensor)
    assert torch.equal(cast, cast.to(torch.float8_e4m3fn).float())
    assert len(cast.unique()) < 101


def test_delayed_scaling_looks_back_and_saturates(alone):
    quantizer = Quantizer(is_delayed=True)
    _, first = quantizer(torch.tensor([1.0]))
    cast, second = quantizer(torch.tensor([4.0]))
    assert first.tolist() == second.tolist() == [448.0]
    assert cast.tolist() == [448.0]  # 4 * 448 does not fit
    _, third = quantizer(torch.tensor([1.0]))
    assert third.tolist() == [112.0]
    for _ in range(fp8_linears.HISTORY_LENGTH):
        quantizer(torch.tensor([1.0]))
    assert quantizer(torch.tensor([1.0]))[1].tolist() == [448.0]


def test_zeros_have_a_scale(alone):
    cast, scale = Quantizer(is_delayed=False)(torch.zeros(3))
    assert cast.tolist() == [0, 0, 0] and scale.tolist() == [1]


def test_gradient_passes_the_rounding(alone):
    tensor = torch.tensor([0.3, -1.0], requires_grad=True)
    cast, scale = Quantizer(is_delayed=False)(tensor)
    cast.sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [scale.item()] * 2


def test_gradients_are_cast_to_e5m2(monkeypatch, alone):
    monkeypatch.setattr(
        fp8_linears.parallel_state, "get_tensor_model_parallel_group", lambda: None
    )
    tensor = torch.ones(3, requires_grad=True)
    output = fp8_linears._CastGradient.apply(tensor)
    output.backward(torch.tensor([1.0, 0.3, 0.0]))
    largest = torch.finfo(torch.float8_e5m2).max
    on_grid = torch.tensor(0.3 * largest).to(torch.float8_e5m2).item() / largest
    assert tensor.grad is not None
    assert tensor.grad.tolist() == pytest.approx([1.0, on_grid, 0.0])
    assert on_grid != pytest.approx(0.3)
