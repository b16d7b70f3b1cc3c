import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from absl import logging
from torch import nn

from ttrace.errors import LayoutError, StorageFullError
from ttrace.frontends.torch_parts import hooks
from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.description import (
    FlatPart,
    LocalTensor,
    ModelDescription,
    NamedParameter,
    NoLayout,
    PlainDescription,
    RecordedElsewhere,
)
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.flat_ranges import flat_range
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Region, ShardLayout, whole
from ttrace.recording.memory_sink import MemorySink
from ttrace.recording.request import RecordRequest


def started(
    model: nn.Module,
    sink: MemorySink,
    *,
    description: ModelDescription | None = None,
    rank: int = 0,
    world_size: int = 1,
    noise_seed: int | None = None,
    roots: list[nn.Module] | None = None,
    **filters,
) -> CaptureSession:
    session = CaptureSession(
        description or PlainDescription(model),
        RecordRequest(
            out=Path("unused"),
            capture=CaptureFilter(**filters),
            noise_seed=noise_seed,
        ),
        rank=rank,
        world_size=world_size,
        open_sink=lambda _: sink,
        roots=roots,
    )
    session.start()
    return session


def num_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.modules()
    ) + sum(len(p._backward_hooks or ()) for p in model.parameters())


@pytest.fixture
def warnings_logged(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: messages.append(text % a))
    return messages


# Hooks and filters.


def test_hooks_come_and_go_with_the_steps_that_are_recorded():
    model, sink = nn.Sequential(nn.Linear(2, 2)), MemorySink()
    session = started(model, sink, steps=frozenset({1}))
    counts = []
    for _ in range(3):
        counts.append(num_hooks(model))
        model(torch.ones(2)).sum().backward()
        session.step()
    session.close()
    assert counts[0] == counts[2] == num_hooks(model) == 0 and counts[1] == 6
    assert {record.id.step for record in sink.records.values()} == {1}
    assert "step1/0/param/weight" in sink.records


def test_kinds_of_the_whole_step_need_no_hooks_on_modules():
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink, kinds=frozenset({Kind.MAIN_GRAD, Kind.PARAM}))
    assert num_hooks(model) == 0
    session.close()
    assert list(sink.records) == [
        "step0/@root/param/weight",
        "step0/@root/param/bias",
    ]


def test_a_perturbed_run_keeps_its_hooks_in_all_steps():
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink, noise_seed=0, steps=frozenset({5}))
    assert num_hooks(model) == 2
    model(torch.ones(2))
    session.close()
    assert num_hooks(model) == 0


def test_module_names_are_made_fit_for_ids():
    model, sink = nn.Module(), MemorySink()
    model.add_module("a/b c", nn.Tanh())
    session = started(model, sink)
    model.get_submodule("a/b c")(torch.ones(1))
    session.close()
    assert list(sink.records) == ["step0/mb0/a_b_c/input/0", "step0/mb0/a_b_c/output/0"]


def test_roots_can_be_named():
    model, sink = nn.Sequential(nn.Tanh(), nn.Tanh()), MemorySink()
    session = started(model, sink, roots=[model[0], model[1]])
    for module in (model[0], model[0], model[1]):
        module(torch.ones(1))
    session.close()
    outputs = [text for text in sink.records if "output" in text]
    assert outputs == [
        "step0/mb0/0/output/0",
        "step0/mb1/0/output/0",
        "step0/mb0/1/output/0",
    ]


# Failures.


@pytest.mark.parametrize("has_compiled", [False, True])  # a helper of the script
def test_a_full_disk_stops_the_recording_and_not_the_training(
    warnings_logged, monkeypatch, has_compiled
):
    monkeypatch.setattr(hooks, "has_compiled", lambda: has_compiled)
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink)
    before = len(sink.records)
    sink.failure = StorageFullError("no space left", remedy="make some")
    for _ in range(2):
        model(torch.ones(2)).sum().backward()
        session.step()
    session.close()
    assert len(sink.records) == before  # the setting that is stated first told
    assert len(warnings_logged) == 1 and "no space left" in warnings_logged[0]


def test_a_sink_that_raises_stops_the_recording_too(warnings_logged, monkeypatch):
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink)

    def fail(record, array):
        raise OSError("broken pipe")

    monkeypatch.setattr(sink, "add", fail)
    model(torch.ones(2)).sum().backward()
    session.close()
    assert len(warnings_logged) == 1 and "broken pipe" in warnings_logged[0]


def test_a_missing_step_call_is_named_once(warnings_logged):
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink)
    for _ in range(3):
        session.records.scalar(Kind.GRAD_NORM, 1.0)
    session.close()
    assert len(warnings_logged) == 1 and "trace.step()" in warnings_logged[0]


def test_nothing_recorded_leaves_the_trace_incomplete():
    sink = MemorySink()
    started(nn.Tanh(), sink).close()
    assert sink.ending is not None and "nothing was recorded" in sink.ending


def test_a_rank_may_have_nothing_that_the_filters_want():
    sink = MemorySink()
    model = nn.Tanh()
    started(model, sink, rank=1, world_size=2, modules=("elsewhere",)).close()
    assert sink.ending == "closed"


def test_an_abort_takes_the_hooks_off_and_says_why():
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink)
    session.abort("interrupted")
    session.close()
    assert sink.ending == "interrupted" and num_hooks(model) == 0


class Strange(PlainDescription):
    def activation_layout(
        self,
        path: str,
        module: nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | NoLayout:
        if kind is Kind.INPUT:
            return NoLayout(reason="no rule")
        if slot == "0":
            raise LayoutError("does not divide", remedy="think")
        return whole((*local_shape, 1), "dense")


def test_layouts_that_do_not_fit_are_skipped_with_the_reason():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model, sink = Pair(), MemorySink()
    session = started(model, sink, description=Strange(model))
    model(torch.ones(2))
    session.close()
    assert sink.skipped == {
        "step0/mb0/@root/input/0": "no rule",
        "step0/mb0/@root/output/0": "does not divide",
        "step0/mb0/@root/output/1": "its shape is [2], its layout is for [2, 1]",
    }


class Staged(PlainDescription):
    """Two model chunks; only the second one returns what the whole model returns."""

    def __init__(self, chunks: list[nn.Module]):
        super().__init__(chunks[0])
        self._chunks = chunks

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        for chunk in self._chunks:
            yield "@root", chunk

    def num_earlier_calls(self, path: str, module: nn.Module) -> int:
        return 3

    def activation_layout(
        self,
        path: str,
        module: nn.Module,
        kind: Kind,
        slot: str,
        local_shape: tuple[int, ...],
    ) -> ShardLayout | RecordedElsewhere:
        if module is self._chunks[0] and kind is not Kind.INPUT:
            return RecordedElsewhere()
        if module is self._chunks[1] and kind is Kind.INPUT:
            return RecordedElsewhere()
        return whole(local_shape, "dense")


def test_chunks_of_a_pipeline_rank_stand_for_one_model():
    chunks: list[nn.Module] = [nn.Linear(2, 2), nn.Linear(2, 2)]
    sink = MemorySink()
    session = started(chunks[0], sink, description=Staged(chunks))
    sent = [chunks[0](torch.ones(1, 2)).detach() for _ in range(2)]
    for hidden in sent:
        chunks[1](hidden)
    session.close()
    activations = [text for text in sink.records if "put/" in text]
    assert activations == [
        "step0/mb0/@root/input/0/call3",
        "step0/mb1/@root/input/0/call3",
        "step0/mb0/@root/output/0/call3",
        "step0/mb1/@root/output/0/call3",
    ]
    assert not sink.skipped


# What frameworks bring.


class Watching:
    """Notes when it is asked what; splits one activation into two records."""

    def __init__(self):
        self.events: list[str] = []
        self.capture: Capture | None = None

    def start(self, capture: Capture) -> None:
        self.capture = capture
        self.events.append("start")

    def end_step(self) -> None:
        assert self.capture is not None
        self.events.append(f"end of step {self.capture.step}")

    def end(self) -> None:
        self.events.append("end")

    def records_of(self, id_, module, tensor):
        if id_.kind is not Kind.OUTPUT:
            return None
        halves = [(f"{id_.slot}.{n}", half) for n, half in enumerate(tensor.chunk(2))]
        return [
            (
                dataclasses.replace(id_, slot=slot),
                LocalTensor(values=half, layout=whole(tuple(half.shape), "dense")),
            )
            for slot, half in halves
        ]


def test_observers_are_told_of_the_steps_and_may_say_what_an_activation_is():
    model, sink, watching = nn.Tanh(), MemorySink(), Watching()
    session = CaptureSession(
        PlainDescription(model),
        RecordRequest(out=Path("unused")),
        rank=0,
        world_size=1,
        open_sink=lambda _: sink,
        observers=[watching],
        activations=watching,
    )
    session.start()
    model(torch.ones(2))
    session.step()
    session.close()
    session.close()
    assert watching.events == ["start", "end of step 0", "end of step 1", "end"]
    assert list(sink.records) == [
        "step0/mb0/@root/input/0",
        "step0/mb0/@root/output/0.0",
        "step0/mb0/@root/output/0.1",
    ]


# What adapters tell.


class Sharded(PlainDescription):
    """Main gradients are flat halves, as with ZeRO; losses are scaled by 4."""

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        layout = super().parameter_layout(named, kind)
        if kind is Kind.MAIN_GRAD and isinstance(layout, ShardLayout):
            return flat_range(layout, 0, named.parameter.numel() // 2)
        return layout

    def scale(self, kind: Kind) -> float:
        return 4.0 if kind is Kind.LOSS else 1.0


def test_an_adapter_records_what_hooks_do_not_see():
    model, sink = nn.Linear(2, 3), MemorySink()
    session = started(model, sink, description=Sharded(model))

    def half(named: NamedParameter):
        if named.slot == "bias":
            return NoLayout(reason="held elsewhere")
        return named.parameter.reshape(-1)[:3]

    session.records.parameters(Kind.MAIN_GRAD, half)
    session.records.parameters(Kind.UPDATED_PARAM, lambda named: None)
    session.records.optimizer_state(
        lambda named: (
            {"exp avg": torch.ones_like(named.parameter), "step": 3}
            if named.slot == "weight"
            else None
        )
    )
    session.records.scalar(Kind.LEARNING_RATE, 0.1, slot="group0")
    session.records.loss(torch.tensor(2.0))
    session.records.loss(3.0, microbatch=1, scale=0.5)
    session.close()
    flat = sink.records["step0/@root/main_grad/weight"]
    assert flat.layout.is_flat and flat.exact_replicas
    assert sink.skipped == {"step0/@root/main_grad/bias": "held elsewhere"}
    assert sink.arrays["step0/@root/optimizer_state/weight.step"] == 3.0
    assert "step0/@root/optimizer_state/weight.exp_avg" in sink.records
    assert not any("updated_param" in text for text in sink.records)
    losses = {text: r.scale for text, r in sink.records.items() if "loss" in text}
    assert losses == {"step0/mb0/@root/loss": 4.0, "step0/mb1/@root/loss": 0.5}
    assert sink.arrays["step0/@root/learning_rate/group0"].dtype == np.float64


def test_a_flat_range_of_a_parameter_is_recorded_as_blocks():
    model, sink = nn.Linear(2, 3), MemorySink()
    session = started(model, sink)

    def part(named: NamedParameter) -> FlatPart:
        # Of the weight [3, 2] the last three elements; one too many of the bias [3].
        return FlatPart(start=3, values=named.parameter.flatten()[-3:])

    session.records.parameters(Kind.UPDATED_PARAM, part)
    session.records.optimizer_state(
        lambda named: (
            {"exp_avg": part(named)}
            if named.slot == "weight"
            else NoLayout(reason="held elsewhere")
        )
    )
    session.close()
    for text in ("updated_param/weight", "optimizer_state/weight.exp_avg"):
        record = sink.records[f"step0/@root/{text}"]
        assert [b.region for b in record.layout.blocks] == [
            Region(start=(1, 1), extent=(1, 1)),
            Region(start=(2, 0), extent=(1, 2)),
        ]
        assert record.exact_replicas
    assert sink.skipped == {
        "step0/@root/updated_param/bias": "not a flat range of a shard (expected 0 <= "
        "start <= stop <= 3, of a shard that is neither flat nor indexed; got [3, 6) "
        "of local shape [3])",
        "step0/@root/optimizer_state/bias": "held elsewhere",
    }


def test_what_is_not_wanted_is_not_asked_for():
    model, sink = nn.Linear(2, 2), MemorySink()
    session = started(model, sink, kinds=frozenset({Kind.LOSS}))

    def never(named):
        raise AssertionError

    session.records.parameters(Kind.MAIN_GRAD, never)
    session.records.optimizer_state(never)
    assert session.wants(Kind.LOSS) and not session.wants(Kind.MAIN_GRAD)
    with session.paused():
        assert not session.wants(Kind.LOSS)
        session.records.loss(1.0)
    session.records.loss(2.0)
    session.close()
    assert not session.wants(Kind.LOSS)
    assert sink.arrays["step0/mb0/@root/loss"] == 2.0
    assert not sink.skipped  # a getter that fails is skipped, one not asked is not


def test_a_getter_that_fails_does_not_reach_the_training():
    model, sink = nn.Linear(2, 2, bias=False), MemorySink()
    session = started(model, sink)

    def fail(named: NamedParameter):
        raise AttributeError("'NoneType' object has no attribute 'view'")

    session.records.parameters(Kind.MAIN_GRAD, fail)
    session.records.optimizer_state(fail)
    session.close()
    assert sink.skipped == {
        f"step0/@root/{kind}/weight": "ttrace could not find what this rank holds of "
        "it: AttributeError: 'NoneType' object has no attribute 'view'"
        for kind in ("main_grad", "optimizer_state")
    }


def test_parameter_gradients_come_before_what_is_made_of_them():
    model, sink = nn.Linear(2, 2, bias=False), MemorySink()
    session = started(model, sink)
    model(torch.ones(2)).sum().backward()
    session.records.parameters(Kind.MAIN_GRAD, lambda named: named.parameter.grad)
    session.close()
    assert list(sink.records)[-2:] == [
        "step0/mb0/@root/param_grad/weight",
        "step0/@root/main_grad/weight",
    ]
