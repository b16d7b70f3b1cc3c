"""What is read off an engine of DeepSpeed: here one that only looks like it.

The real one was run by hand (docs/support.md); it is no dependency of the tests.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.nn.utils import clip_grad_norm_

from ttrace.compare.backend import load_backend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.frontends.torch_parts.local_tensor import LocalTensor, RecordedElsewhere
from ttrace.frontends.torch_parts.native import NativeDescription
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace


class DeepSpeedEngine(nn.Module):
    """A model of two linear layers, 6 + 2 and 4 + 2 elements, cut after the ninth.

    Args:
        rank: Which of two partitions it has.
        stage: Of ZeRO.
        clipping: The norm that it clips to in its step; 0 for none.
    """

    def __init__(self, rank: int, stage: int = 1, clipping: float = 0.0):
        super().__init__()
        self.clipping = clipping
        self.module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        self.data_parallel_group = dist.group.WORLD
        parameters: list[Any] = list(self.module.parameters())
        partition = nn.Parameter(torch.zeros(7))
        self.base = torch.optim.SGD([partition] if stage else parameters, lr=0.1)
        self.optimizer: Any = SimpleNamespace(optimizer=self.base)
        if stage:
            self.optimizer.bit16_groups = [parameters]
        begin, stop, first = 7 * rank, 7 * rank + 7, 0
        for parameter in parameters:
            low = max(first, begin)
            high = min(first + parameter.numel(), stop)
            parameter._hp_mapping = None
            if low < high:
                parameter._hp_mapping = SimpleNamespace(
                    lp_fragment_address=SimpleNamespace(
                        start=low - first, numel=high - low
                    ),
                    hp_fragment_address=SimpleNamespace(
                        start=low - begin, numel=high - low
                    ),
                )
            first += parameter.numel()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)

    def gradient_clipping(self) -> float:
        return self.clipping

    def step(self) -> None:
        """Of ZeRO 0: clips by a function of its own, as DeepSpeed does, and steps."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for gradient in gradients if self.clipping else ():
            gradient.mul_(min(1.0, self.clipping / (float(norm) + 1e-6)))
        self.base.step()
        self.base.zero_grad()


@pytest.fixture(autouse=True)
def deepspeed(monkeypatch) -> Iterator[None]:
    loaded = ModuleType("deepspeed.runtime.engine")
    vars(loaded)["DeepSpeedEngine"] = DeepSpeedEngine
    monkeypatch.setitem(sys.modules, loaded.__name__, loaded)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_rank_holds_flat_ranges_of_the_parameters_in_its_partition():
    engine = DeepSpeedEngine(rank=0)
    description = NativeDescription(engine)
    partition = engine.base.param_groups[0]["params"][0]
    named = {f"{n.module}.{n.slot}": n for n in description.parameters()}
    assert list(named) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(n.parameter is partition for n in named.values())
    values = torch.arange(7.0)
    whole = description.parameter(named["0.weight"], Kind.UPDATED_PARAM, values)
    assert isinstance(whole, LocalTensor)
    assert whole.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert whole.layout.global_shape == (2, 3)
    part = description.parameter(named["0.bias"], Kind.MAIN_GRAD, values)
    assert isinstance(part, LocalTensor)
    assert part.values.tolist() == [6]
    assert part.layout.global_shape == (2,)
    rest = description.parameter(named["1.bias"], Kind.MAIN_GRAD, values)
    assert isinstance(rest, RecordedElsewhere)


def test_the_next_rank_has_what_the_first_has_not():
    description = NativeDescription(DeepSpeedEngine(rank=1))
    named = {f"{n.module}.{n.slot}": n for n in description.parameters()}
    values = torch.arange(7.0)
    answers = {
        path: description.parameter(one, Kind.MAIN_GRAD, values)
        for path, one in named.items()
    }
    assert isinstance(answers["0.weight"], RecordedElsewhere)
    held = {
        path: answer.values.tolist()
        for path, answer in answers.items()
        if isinstance(answer, LocalTensor)
    }
    assert held == {"0.bias": [0], "1.weight": [1, 2, 3, 4], "1.bias": [5, 6]}


def test_gradients_of_a_forward_are_those_of_the_model_itself():
    engine = DeepSpeedEngine(rank=0)
    description = NativeDescription(engine)
    hidden = description.hidden_parameters(description.parameters())
    assert [one.owner for one in hidden[::2]] == list(engine.module)
    assert {one.unit for one in hidden} == {engine.module}
    gradient = torch.ones(2, 3)
    answer = description.parameter(hidden[0].named, Kind.PARAM_GRAD, gradient)
    assert isinstance(answer, LocalTensor) and answer.values is gradient


def test_without_zero_the_optimizer_has_the_parameters_themselves():
    engine = DeepSpeedEngine(rank=0, stage=0)
    description = NativeDescription(engine)
    own = [named.parameter for named in description.parameters()]
    assert all(a is b for a, b in zip(own, engine.module.parameters(), strict=True))
    assert description.scale(Kind.PARAM_GRAD) == 1.0


def test_what_an_engine_clips_is_no_main_grad():
    description = NativeDescription(DeepSpeedEngine(rank=0, clipping=0.5))
    (named, *_) = description.parameters()
    values = torch.arange(7.0)
    assert isinstance(description.parameter(named, Kind.MAIN_GRAD, values), NoLayout)
    clipped = description.parameter(named, Kind.CLIPPED_GRAD, values)
    assert isinstance(clipped, LocalTensor)
    assert clipped.values.tolist() == [0, 1, 2, 3, 4, 5]


def recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_engine: bool, clipping: float
) -> Trace:
    """One step of an engine, or of the same model with torch's own clipping."""
    request = RecordRequest(out=folder)
    for name, value in request.to_environment().items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    engine = DeepSpeedEngine(rank=0, stage=0, clipping=clipping)
    model = engine if is_engine else engine.module
    with torch_capture.trace(model, engine.base) as trace:
        loss = model(torch.ones(2, 3)).square().sum() * 100
        trace.loss(loss)
        loss.backward()
        if is_engine:
            engine.step()
        else:
            if clipping:
                clip_grad_norm_(model.parameters(), clipping)
            engine.base.step()
            engine.base.zero_grad()
        trace.step()
    return open_trace(folder)


@pytest.mark.parametrize("clipping", [0.5, 0.0])
def test_clipping_of_an_engine_is_compared_with_that_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clipping: float
):
    runs = [
        recorded(
            tmp_path / str(is_engine),
            monkeypatch,
            is_engine=is_engine,
            clipping=clipping,
        )
        for is_engine in (False, True)
    ]
    report = compare_traces(runs[0], runs[1], load_backend("numpy"))
    assert report.verdict is Outcome.PASS, report.summary
    status = {(t.kind, t.status) for t in report.tensors}
    if clipping:
        assert {("clipped_grad", "passed"), ("main_grad", "skipped")} <= status
        assert ("grad_norm", "skipped") in status
    else:
        assert ("main_grad", "passed") in status and ("grad_norm", "passed") in status


def test_another_limit_of_an_engine_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = (
        recorded(tmp_path / "a", monkeypatch, is_engine=False, clipping=0.5),
        recorded(tmp_path / "b", monkeypatch, is_engine=True, clipping=0.4),
    )
    report = compare_traces(*runs, load_backend("numpy"))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence and report.first_divergence.kind == "clipped_grad"


def test_partitions_of_a_group_that_was_reordered_are_read_as_it_was():
    engine = DeepSpeedEngine(rank=0)
    a, b, c, d = engine.module.parameters()  # of 6, 2, 4 and 2 elements
    (partition,) = (group["params"][0] for group in engine.base.param_groups)
    vars(engine.optimizer).update(
        round_robin_gradients=True,
        round_robin_bit16_groups=[[a, c, b, d]],
        single_partition_of_fp32_groups=[partition],
        real_dp_process_group=[dist.group.WORLD],
    )

    def held() -> dict[str, object]:
        description = NativeDescription(engine)
        values = torch.arange(7.0)
        return {
            f"{one.module}.{one.slot}": (
                answer.values.tolist()
                if isinstance(answer, LocalTensor)
                else type(answer)
            )
            for one in description.parameters()
            for answer in [description.parameter(one, Kind.UPDATED_PARAM, values)]
        }

    assert held() == {
        "0.weight": [0, 1, 2, 3, 4, 5],
        "0.bias": RecordedElsewhere,
        "1.weight": [6],
        "1.bias": RecordedElsewhere,
    }
    # Newer ones put padding behind parameters.
    engine.optimizer.round_robin_bit16_offsets = [[0, 7, 12, 14]]
    assert held()["1.weight"] is RecordedElsewhere
