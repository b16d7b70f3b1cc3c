"""Operations inside of modules: recorded as they ran, without changing a bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts import operation_calls
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.collective import Role
from ttrace.ir.kinds import Kind
from ttrace.ir.operation import OperationPart
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace

HERE = "tests/frontends/torch/test_operations.py"

EVERY = frozenset(Kind)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor):
        return x.exp() * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Any):
        return gradients[0] * 3


class Net(nn.Module):
    """Its own code has views, in-place work, several results and a function."""

    def __init__(self):
        super().__init__()
        self.up, self.scale = nn.Linear(4, 8), nn.Parameter(torch.rand(4))
        self.table = torch.rand(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.up(x).chunk(2, -1)
        left = left.contiguous()
        left[:, 0].add_(1.0)
        largest, _ = right.max(-1, keepdim=True)
        y = torch.add(left, largest, alpha=3) * self.scale
        y = torch.dropout(_Doubled.apply(y), 0.25, True)
        y += x
        return y * self.table


def train(
    folder: Path | None,
    make: Callable[[], nn.Module] = Net,
    *,
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] = lambda m, x: m(x),
    **capture: Any,
) -> list[torch.Tensor]:
    """Trains two steps; the loss of each, and then the parameters."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        if folder is not None:
            request = RecordRequest(out=folder, capture=CaptureFilter(**capture))
            for name, value in request.to_environment().items():
                patch.setenv(name, value)
        with torch_capture.trace(model, optimizer) as trace:
            for _ in range(2):
                loss = forward(model, torch.randn(3, 4)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                trace.step()
                results.append(loss.detach())
    return [*results, *(p.detach() for p in model.parameters())]


class Recorded:
    """The operations of one module in step 0, of the forward or the backward."""

    def __init__(self, trace: Trace, module: str = "@root", *, back: bool = False):
        self.values: dict[str, np.ndarray] = {}
        self.parts: dict[str, OperationPart] = {}
        for id_, record in trace.info.tensors.items():
            if id_.kind is Kind.OP and id_.module == module and id_.step == 0:
                (shard,) = record.shards
                assert shard.operation is not None
                if shard.operation.is_backward is not back:
                    continue
                self.parts[shard.operation.key] = shard.operation
                self.values[shard.operation.key] = trace.load(shard)

    def named(self, name: str) -> list[OperationPart]:
        """The results of operations of a short name, in order."""
        return [
            part
            for part in self.parts.values()
            if part.short_name == name and part.role is Role.RESULT
        ]

    def operand(self, part: OperationPart, position: int) -> np.ndarray:
        return self.values[part.operands[position]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorded:
    folder = tmp_path_factory.mktemp("runs") / "trace"
    train(folder, kinds=frozenset({Kind.OP}), modules=("@root",))
    return Recorded(open_trace(folder))


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if text in line)
    return f"{HERE}:{number}"


@pytest.mark.parametrize("kinds", [EVERY, frozenset({Kind.OP})])
def test_tracing_changes_no_bit(tmp_path, kinds):
    plain, traced = train(None), train(tmp_path / "trace", kinds=kinds)
    for one, other in zip(plain, traced, strict=True):
        assert torch.equal(one, other)


def test_every_operand_is_a_recorded_value(recorded):
    for part in recorded.parts.values():
        for key in filter(None, part.operands):
            assert key in recorded.parts, (part, key)
            assert recorded.parts[key].number <= part.number


def test_results_follow_from_their_operands(recorded):
    (add,) = [p for p in recorded.named("add") if "alpha=3" in p.constants]
    expected = recorded.operand(add, 0) + 3 * recorded.operand(add, 1)
    np.testing.assert_allclose(recorded.values[add.key], expected, rtol=1e-6)
    assert add.source == line_of("y = torch.add(left, largest, alpha=3)")
    assert add.name == "aten.add.Tensor"


def test_several_results_are_told_apart(recorded):
    largest = recorded.named("max")
    assert [part.position for part in largest] == [0, 1]
    assert recorded.values[largest[1].key].dtype == np.int64


def test_what_is_written_in_place_is_a_new_value(recorded):
    (added,) = recorded.named("add_")[:1]
    before, after = recorded.operand(added, 0), recorded.values[added.key]
    np.testing.assert_allclose(after, before + 1.0, rtol=1e-6)
    # A view was written: the whole tensor is other values now, made by that.
    (total,) = [p for p in recorded.named("add") if "alpha=3" in p.constants]
    whole = recorded.parts[total.operands[0]]
    (copied,) = recorded.named("clone")
    assert whole.role is Role.OPERAND and whole.operands == (copied.key, added.key)
    np.testing.assert_array_equal(recorded.operand(total, 0)[:, 0], after)


def test_what_comes_from_outside_says_what_it_is(recorded):
    origins = {
        part.origin
        for part in recorded.parts.values()
        if part.role is Role.OPERAND and not part.operands
    }
    assert origins == {"output/up/0", "param/scale", "input/0", ""}


def test_operations_of_a_function_are_those_of_its_forward(recorded):
    (exp,) = recorded.named("exp")
    assert exp.source == line_of("return x.exp() * 2")


@pytest.fixture(scope="module")
def backward(tmp_path_factory) -> Recorded:
    folder = tmp_path_factory.mktemp("runs") / "trace"
    train(folder, kinds=frozenset({Kind.OP}), modules=("@root",))
    return Recorded(open_trace(folder), back=True)


def test_nodes_of_the_backward_are_recorded_with_the_line_of_their_forward(backward):
    (add,) = [
        part
        for part in backward.named("MulBackward0")
        if part.source == line_of("y = torch.add(left, largest, alpha=3)")
        and part.position == 1
    ]
    assert backward.values[add.key].shape == (4,)  # of the scale
    for part in backward.parts.values():
        assert part.is_backward
        for key in filter(None, part.operands):
            assert backward.parts[key].number <= part.number
    # Those of a module inside are its own.
    assert not backward.named("AddmmBackward0")


def test_a_backward_of_its_own_is_named_by_its_line(backward):
    (node,) = [p for p in backward.parts.values() if p.name == "_DoubledBackward"]
    assert node.source == line_of("return gradients[0] * 3")
    given = backward.operand(node, 0)
    np.testing.assert_array_equal(backward.values[node.key], given * 3)


def test_a_gradient_that_is_summed_names_its_summands(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.scale
            return y.exp() + y.tanh()

    train(tmp_path / "trace", Twice, kinds=frozenset({Kind.OP}))
    found = Recorded(open_trace(tmp_path / "trace"), back=True)
    (mul,) = found.named("MulBackward0")
    summed = found.parts[mul.operands[0]]
    assert summed.role is Role.OPERAND
    makers = {found.parts[key].short_name for key in summed.operands}
    assert makers == {"ExpBackward0", "TanhBackward0"}
    total = sum(found.values[key] for key in summed.operands)
    np.testing.assert_allclose(found.values[summed.key], total, rtol=1e-6)


def test_values_that_were_never_written_are_not_recorded(recorded):
    assert not any(
        part.short_name.startswith("empty") for part in recorded.parts.values()
    )
    (mask,) = recorded.named("bernoulli_")
    assert mask.operands == ("",) and mask.constants == ("p=0.75",)


def test_those_of_modules_inside_are_theirs(tmp_path):
    train(tmp_path / "trace", kinds=frozenset({Kind.OP}))
    trace = open_trace(tmp_path / "trace")
    assert [p.short_name for p in Recorded(trace, "up").parts.values()][-1] == "addmm"
    assert not Recorded(trace).named("addmm")


def test_beside_all_else_only_those_that_are_asked_for(tmp_path):
    train(tmp_path / "trace", operations=("up",), steps=frozenset({1}))
    ids = list(open_trace(tmp_path / "trace").info.tensors)
    assert {id_.module for id_ in ids if id_.kind is Kind.OP} == {"up"}
    assert {id_.step for id_ in ids} == {1}
    assert {Kind.OUTPUT, Kind.PARAM_GRAD} <= {id_.kind for id_ in ids}


def test_a_recomputed_forward_is_recorded_once(tmp_path):
    plain, traced = (
        train(
            folder,
            forward=lambda m, x: checkpoint(m, x, use_reentrant=False),  # pyright: ignore
            kinds=EVERY,
        )
        for folder in (None, tmp_path / "trace")
    )
    assert all(map(torch.equal, plain, traced))
    found = Recorded(open_trace(tmp_path / "trace"))
    assert len(found.named("exp")) == 1


class Filled(nn.Module):
    """Writes what it returns piece by piece."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        y[0] = x[0] * self.scale
        y[1:] = x[1:].exp()
        return y


def test_what_is_written_in_pieces_is_recorded_when_it_is_returned(tmp_path):
    train(tmp_path / "trace", Filled, kinds=frozenset({Kind.OP}))
    found = Recorded(open_trace(tmp_path / "trace"))
    last = list(found.parts.values())[-1]
    assert last.name == operation_calls.RETURNED and last.role is Role.OPERAND
    assert [found.parts[key].short_name for key in last.operands] == ["copy_"] * 2
    (exp,) = found.named("exp")
    np.testing.assert_array_equal(found.values[last.key][1:], found.values[exp.key])


class Fails(Net):
    """Is interrupted in the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.exp(x)
        raise ValueError("on purpose")


def test_a_call_that_ends_in_an_error_leaves_nothing_on(tmp_path):
    with pytest.raises(ValueError, match="on purpose"):
        train(tmp_path / "trace", Fails, kinds=EVERY)
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    assert _get_current_dispatch_mode() is None


def test_too_many_bytes_end_it_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(operation_calls, "MAX_BYTES", 200)
    train(tmp_path / "trace", kinds=frozenset({Kind.OP}), modules=("@root",))
    info = open_trace(tmp_path / "trace").info
    reasons = {str(id_): skipped.reason for id_, skipped in info.skipped.items()}
    assert set(reasons) == {"step0/mb0/@root/op", "step1/mb0/@root/op"}
    assert "no further ones of it are recorded" in reasons["step0/mb0/@root/op"]
    assert 0 < len(info.tensors) < 12


def test_a_fault_of_ttrace_stays_out_of_the_training(tmp_path, monkeypatch):
    def fails(*args):
        raise ZeroDivisionError("ours")

    plain = train(None)
    monkeypatch.setattr(operation_calls, "constants_of", fails)
    traced = train(tmp_path / "trace", kinds=EVERY)
    assert all(map(torch.equal, plain, traced))
    found = Recorded(open_trace(tmp_path / "trace"))
    assert not any(part.role is Role.RESULT for part in found.parts.values())


class Tanh(nn.Module):
    """Small enough to compile."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * self.scale)


class Around(nn.Module):
    """Has a module that is compiled."""

    def __init__(self):
        super().__init__()
        self.inner = Tanh()
        self.inner.compile(backend="eager")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * 2


def test_what_is_compiled_stays_so_and_is_skipped_with_a_reason(tmp_path):
    plain, traced = train(None, Around), train(tmp_path / "t", Around, kinds=EVERY)
    assert all(map(torch.equal, plain, traced))
    trace = open_trace(tmp_path / "t")
    assert [p.short_name for p in Recorded(trace).named("mul")] == ["mul"]
    assert not Recorded(trace, "inner").parts
    skipped = {
        id_.module: one.reason
        for id_, one in trace.info.skipped.items()
        if id_.kind is Kind.OP
    }
    assert "torch.compile compiles" in skipped["inner"]
