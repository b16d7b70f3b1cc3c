import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ttrace.frontends.torch_parts.description import PlainDescription
from ttrace.frontends.torch_parts.noise import NoisePoint, gets_noise, hash_words
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.generate import hash_key
from ttrace.generate import hash_words as reference_hash_words
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Block, Region, ShardLayout, whole
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest

ID = TensorId(step=0, microbatch=0, module="m", kind=Kind.OUTPUT, slot="0")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def point(shape=(), *, noise_seed=0, id_=ID, layout=None) -> NoisePoint:
    return NoisePoint(
        id=id_, noise_seed=noise_seed, layout=layout or whole(shape, "dense")
    )


def steps(tensor: torch.Tensor, noised: torch.Tensor) -> torch.Tensor:
    """How many numbers apart, away from zero."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return noised.view(bits).long() - tensor.view(bits).long()


# Bits.


def test_the_hash_is_that_of_the_generator():
    index = torch.tensor([0, 1, 2, 12345, 2**32 - 1, 2**32, 2**40 + 7])
    key = hash_key("noise/x", 3)
    expected = reference_hash_words(
        (index.numpy() >> 32).astype(np.uint32),
        (index.numpy() & 0xFFFFFFFF).astype(np.uint32),
        key,
    )
    np.testing.assert_array_equal(hash_words(index, key).numpy(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_moves_to_a_neighbour_up_or_down(dtype):
    x = torch.randn(100, 50).to(dtype)
    x[x == 0] = 1
    moved = steps(x, point((100, 50)).stepped(x))
    assert set(moved.unique().tolist()) == {-1, 1}
    assert abs(moved.double().mean()) < 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_and_what_is_not_finite_stay(dtype):
    limits = torch.finfo(dtype)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan]
    extreme = [limits.max, limits.min, limits.smallest_normal]
    x = torch.tensor(special + extreme * 20, dtype=dtype)
    noised = point(tuple(x.shape)).stepped(x)
    assert not steps(x, noised)[:5].any()
    assert noised[5:].isfinite().all() and (noised[5:] != 0).all()
    tiny = torch.full((50,), 1.0, dtype=dtype).view(steps_dtype(dtype)) * 0 + 1
    smallest = tiny.view(dtype)
    assert (point((50,)).stepped(smallest) != 0).all()


def steps_dtype(dtype: torch.dtype) -> torch.dtype:
    return {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


def test_the_sign_depends_on_id_and_draw_and_not_on_the_pass():
    x = torch.rand(64) + 1
    base = point((64,)).stepped(x)
    again, other = replace(ID, pass_=Pass.RECOMPUTE), replace(ID, call=1)
    assert torch.equal(point((64,), id_=again).stepped(x), base)
    assert not torch.equal(point((64,), id_=other).stepped(x), base)
    assert not torch.equal(point((64,), noise_seed=1).stepped(x), base)


def test_every_layout_gives_an_element_the_same_noise():
    full = torch.rand(6, 8) + 1
    expected = point((6, 8)).stepped(full)
    strided = ShardLayout(  # columns 2-3 and 6-7, swapped, with a padded row
        global_shape=(6, 8),
        local_shape=(7, 4),
        blocks=(
            Block(region=Region(start=(0, 6), extent=(6, 2)), local_start=(0, 0)),
            Block(region=Region(start=(0, 2), extent=(6, 2)), local_start=(0, 2)),
        ),
        mesh="dense",
    )
    local = torch.ones(7, 4)
    local[:6, :2], local[:6, 2:] = full[:, 6:], full[:, 2:4]
    noised = point(layout=strided).stepped(local)
    assert torch.equal(noised[:6, :2], expected[:, 6:])
    assert torch.equal(noised[:6, 2:], expected[:, 2:4])
    assert (noised[6] == 1).all()  # padding stays


def test_without_a_layout_the_local_tensor_is_taken_for_the_whole():
    x = torch.rand(5, 3) + 1
    unknown = NoisePoint(id=ID, noise_seed=0, layout=None)
    assert torch.equal(unknown.stepped(x), point((5, 3)).stepped(x))


def test_strides_do_not_matter():
    x = torch.rand(4, 6) + 1
    transposed = x.t().contiguous().t()
    assert torch.equal(point((4, 6)).stepped(x), point((4, 6)).stepped(transposed))


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.randn(3), True),
        (torch.tensor(1.5), True),
        (torch.ones(2), True),
        (torch.randn(3).to(torch.float8_e5m2), False),
        (torch.arange(5), False),
        (torch.tensor([True, False]), False),
        (nn.Parameter(torch.randn(5)), False),
        (torch.zeros(9).masked_fill(torch.arange(9) > 3, -math.inf), False),
        (torch.ones(1000), False),
        (torch.cat([torch.ones(500), torch.randn(500)]), True),
    ],
)
def test_what_gets_noise(tensor, expected):
    assert gets_noise(tensor) == expected


# Whole runs.


class Block_(nn.Module):
    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode
        self.linears = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))

    def forward(self, x):
        if self.mode == "plain":
            return x + self.linears(x)
        return x + checkpoint(self.linears, x, use_reentrant=self.mode == "reentrant")


class Model(nn.Module):
    def __init__(self, mode: str):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.block = Block_(mode)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, tokens, mask):
        x = self.embedding(tokens) * mask
        for _ in range(2):  # the same block twice
            x = self.block(x)
        self.relu(x)
        return {"hidden": x, "mask": mask}


def run(mode: str, noise_seed: int | None, **filters) -> tuple[MemorySink, dict]:
    torch.manual_seed(0)
    model, sink = Model(mode), MemorySink()
    request = RecordRequest(
        out=Path("unused"), capture=CaptureFilter(**filters), noise_seed=noise_seed
    )
    session = CaptureSession(
        PlainDescription(model), request, rank=0, world_size=1, open_sink=lambda _: sink
    )
    session.start()
    out = model(torch.arange(6).reshape(2, 3), torch.ones(2, 3, 1))
    out["hidden"].square().mean().backward()
    session.close()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return sink, grads


def test_every_float_moves_by_a_rounding_and_masks_stay():
    plain, _ = run("plain", None)
    noised, _ = run("plain", 1)
    assert plain.arrays.keys() == noised.arrays.keys()
    for text, array in plain.arrays.items():
        got = noised.arrays[text]
        kind = noised.records[text].id.kind
        if kind is Kind.PARAM or "mask" in text or array.dtype.kind == "i":
            assert np.array_equal(array, got), text
        elif text != "step0/mb0/@root/input/1":
            assert not np.array_equal(array, got), text
            np.testing.assert_allclose(got, array, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["reentrant", "non_reentrant"])
def test_checkpoints_get_the_same_noise_as_plain_runs(mode):
    plain, plain_grads = run("plain", 1)
    sink, grads = run(mode, 1)
    for text, array in sink.arrays.items():
        if "param_grad" not in text:
            other = plain.arrays[text.removesuffix("/recompute")]
            assert np.array_equal(array, other), text
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, plain_grads[name], rtol=1e-6, atol=1e-8)


def test_draws_differ_and_repeat():
    first, again, other = (run("plain", noise_seed)[0] for noise_seed in (1, 1, 2))
    text = "step0/mb0/block/output/0/call1"
    assert np.array_equal(first.arrays[text], again.arrays[text])
    assert not np.array_equal(first.arrays[text], other.arrays[text])


def test_noise_does_not_depend_on_what_is_recorded():
    everything, grads = run("plain", 1)
    some, same_grads = run("plain", 1, modules=("block.linears.2",))
    assert 0 < len(some.arrays) < len(everything.arrays)
    for text, array in some.arrays.items():
        assert np.array_equal(array, everything.arrays[text])
    assert all(torch.equal(g, same_grads[name]) for name, g in grads.items())


def test_ranks_that_are_not_recorded_get_noise_too():
    model = nn.Linear(8, 8)
    request = RecordRequest(
        out=Path("unused"),
        capture=CaptureFilter(ranks=frozenset({0})),
        noise_seed=1,
    )
    sink = MemorySink()
    session = CaptureSession(
        PlainDescription(model), request, rank=1, world_size=2, open_sink=lambda _: sink
    )
    x = torch.randn(4, 8)
    plain = model(x)
    session.start()
    noised = model(x)
    session.close()
    assert not torch.equal(plain, noised) and not sink.records
    assert torch.equal(model(x), plain)


def test_a_tensor_that_nested_modules_return_is_noised_once():
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(8, 8))))
    sink = MemorySink()
    request = RecordRequest(out=Path("unused"), noise_seed=1)
    session = CaptureSession(
        PlainDescription(model), request, rank=0, world_size=1, open_sink=lambda _: sink
    )
    session.start()
    y = model(torch.randn(4, 8))
    y.backward(torch.rand(4, 8) + 1)
    session.close()
    outputs = [a for t, a in sink.arrays.items() if "/output/" in t]
    grads = [a for t, a in sink.arrays.items() if "/grad_output/" in t]
    assert len(outputs) == len(grads) == 4
    assert all(np.array_equal(a, outputs[0]) for a in outputs)
    assert all(np.array_equal(a, grads[0]) for a in grads)
    assert np.array_equal(outputs[0], y.detach().numpy())


def test_gradients_are_not_scaled_and_can_be_differentiated_twice():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.float64), nn.Tanh())
    plain = copy.deepcopy(model)
    request = RecordRequest(out=Path("unused"), noise_seed=1)
    session = CaptureSession(
        PlainDescription(model),
        request,
        rank=0,
        world_size=1,
        open_sink=lambda _: MemorySink(),
    )
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def penalty(m):
        (gradient,) = torch.autograd.grad(m(x).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    session.start()
    noised = penalty(model)
    session.close()
    torch.testing.assert_close(noised, penalty(plain), rtol=1e-12, atol=1e-14)


class UsesItsOutput(nn.Module):
    """Computes its loss from what it also returns, as models with labels do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 32).reshape(8, 4))

    def forward(self, x):
        logits = x @ self.weight
        return logits.square().mean(), logits


@pytest.mark.parametrize("uses_both", [False, True])
def test_an_output_that_the_module_itself_uses_has_its_whole_gradient(uses_both):
    gradients = []
    for noise_seed in (None, 1):
        sink, model = MemorySink(), UsesItsOutput()
        session = CaptureSession(
            PlainDescription(model),
            RecordRequest(out=Path("unused"), noise_seed=noise_seed),
            rank=0,
            world_size=1,
            open_sink=lambda _, sink=sink: sink,
        )
        session.start()
        loss, logits = model(torch.linspace(0, 1, 24).reshape(3, 8))
        (loss + uses_both * 3 * logits.sum()).backward()
        session.close()
        gradients.append(sink.arrays["step0/mb0/@root/grad_output/1"])
    plain, noisy = gradients
    np.testing.assert_allclose(noisy, plain, rtol=1e-5)
