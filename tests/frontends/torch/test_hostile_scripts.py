"""Scripts whose objects throw at whoever looks: their training goes on, bit for bit."""

import collections
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from absl import logging
from torch import nn

from ttrace.errors import IncompleteTraceError
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts import guards
from ttrace.frontends.torch_parts.clips import Clip
from ttrace.frontends.torch_parts.optimizers import OptimizerTap
from ttrace.recording.faults import reason_of
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import Trace, open_trace


class Hostile(Exception):
    """Cannot even be printed."""

    def __str__(self):
        raise RuntimeError("no words")


class BadList(list):
    def __iter__(self):
        raise Hostile

    def __len__(self):
        raise Hostile


class BadMapping(Mapping):
    def __getitem__(self, key):
        raise Hostile

    def __iter__(self):
        yield "first"

    def __len__(self):
        raise Hostile


class BadTuple(tuple):
    @property
    def _fields(self):
        raise Hostile


class BadKey:
    def __str__(self):
        raise Hostile


class BadTensor(torch.Tensor):
    """Raises whenever its values are looked at, and can be computed with."""

    @property
    def shape(self):  # pyright: ignore
        raise Hostile

    @property
    def requires_grad(self):  # pyright: ignore
        raise Hostile


def with_container(make):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            x, _ = self.inner(x, make(x), extra=make(x))
            return self.last(x)

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x, container, extra):
            x = self.linear(x)
            return x, make(x)

    return Model


class BadBuffers(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self._buffers = BadBuffersDict()  # pyright: ignore


class BadBuffersDict(collections.OrderedDict):
    def items(self):
        raise Hostile


class BadAttributes(nn.Module):
    """What hooks may ask for raises; what the forward needs does not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def __getattr__(self, name):  # pyright: ignore
        if name == "linear":
            return self._modules["linear"]
        raise Hostile

    def forward(self, x):
        return self.linear(x)


MODELS: dict[str, Any] = {
    "list": with_container(lambda x: BadList([x])),
    "mapping": with_container(lambda x: BadMapping()),
    "tuple": with_container(lambda x: BadTuple((x, x))),
    "key": with_container(lambda x: {BadKey(): x}),
    "tensor": with_container(lambda x: [x.detach().as_subclass(BadTensor), x]),
    "buffers": BadBuffers,
    "attributes": BadAttributes,
}


class NoState(torch.optim.SGD):
    """An optimizer that gives its state to nobody else."""

    @property
    def state(self):  # pyright: ignore
        if self.__dict__.get("_shut"):
            raise Hostile
        return self.__dict__["_kept"]

    @state.setter
    def state(self, value):  # pyright: ignore
        self.__dict__["_kept"] = value


class NoHooks:
    """Not even an optimizer."""

    param_groups = ()

    def step(self):
        pass


def train(
    model: nn.Module, make_optimizer: Callable[..., Any] = torch.optim.SGD
) -> list[torch.Tensor]:
    optimizer = make_optimizer(model.parameters(), lr=0.1)
    results = []
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            x.requires_grad_()
            loss = model(x).square().mean()
            trace.loss(loss)
            loss.backward()
            results += [loss.detach(), x.grad]
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return [*results, *(p.detach() for p in model.parameters())]


def made(make) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(run, **options) -> tuple[Trace, Any]:
        request = RecordRequest(out=tmp_path / "trace", **options)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        results = run()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out), results

    return recorded


@pytest.fixture
def warnings(monkeypatch):
    """What goes to the log, as text."""
    found: list[str] = []
    monkeypatch.setattr(guards, "_warned", set())
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: found.append(text % args)
    )
    return found


@pytest.mark.parametrize("name", MODELS)
def test_what_a_script_gives_its_modules_cannot_stop_it(name, record, warnings):
    plain = train(made(MODELS[name]))
    trace, traced = record(lambda: train(made(MODELS[name])))
    for x, y in zip(plain, traced, strict=True):
        assert torch.equal(x, y)
    ids = {str(id_) for id_ in trace.info.tensors}
    assert {"step0/mb0/@root/output/0", "step1/mb0/@root/loss"} <= ids
    assert any("step1" in id_ and "main_grad" in id_ for id_ in ids)
    assert len(warnings) == len(set(warnings))


def test_the_tensors_before_a_fault_are_recorded_and_the_rest_has_a_reason(
    record, warnings
):
    trace, _ = record(lambda: train(made(MODELS["list"])))
    ids = {str(id_) for id_ in trace.info.tensors}
    assert {"step0/mb0/inner/input/0", "step0/mb0/inner/output/0"} <= ids
    reasons = {str(id_): text.reason for id_, text in trace.info.skipped.items()}
    for kind in ("input", "output"):
        reason = reasons[f"step0/mb0/inner/{kind}"]
        assert reason == (
            "ttrace could not look through the structure that holds it: Hostile"
        )


@pytest.mark.parametrize("name", ["list", "mapping", "key"])
def test_noise_runs_go_on_as_well(name, record, warnings):
    trace, _ = record(lambda: train(made(MODELS[name])), noise_seed=1)
    assert any("updated_param" in str(id_) for id_ in trace.info.tensors)


def test_an_optimizer_that_gives_its_state_to_nobody(record, warnings):
    def shut(parameters, lr):
        optimizer = NoState(parameters, lr=lr, momentum=0.9)
        optimizer.register_step_pre_hook(lambda *_: vars(optimizer).update(_shut=False))
        optimizer.register_step_post_hook(lambda *_: vars(optimizer).update(_shut=True))
        return optimizer

    trace, _ = record(lambda: train(made(lambda: nn.Linear(3, 2)), shut))
    assert any("updated_param" in str(id_) for id_ in trace.info.tensors)
    skipped = {str(id_): text.reason for id_, text in trace.info.skipped.items()}
    reason = skipped["step1/@root/optimizer_state/weight"]
    assert reason == "ttrace could not find what this rank holds of it: Hostile"


def test_an_object_without_hooks_is_named_in_the_log(record, warnings):
    def run():
        model = nn.Linear(3, 2)
        with torch_capture.trace(model, NoHooks()) as trace:  # pyright: ignore
            model(torch.ones(3)).sum().backward()
            trace.step()

    trace, _ = record(run)
    assert any("output" in str(id_) for id_ in trace.info.tensors)
    (text,) = warnings
    assert "observe an optimizer" in text and "register_step_pre_hook" in text


class Thrower:
    """Stands for anything that an observer touches."""

    def __getattr__(self, name):
        raise Hostile

    def __iter__(self):
        raise Hostile

    def __float__(self):
        raise Hostile


def test_no_observer_raises_whatever_it_is_given(record, warnings, monkeypatch):
    def run():
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch_capture.trace(model, optimizer) as trace:
            thrower: Any = Thrower()
            trace.loss(thrower)
            trace.loss(torch.ones(3).as_subclass(BadTensor))
            trace.main_grads(grad_norm=thrower)
            model(torch.ones(3)).sum().backward()
            tap = trace._optimizers[0]
            for method in (tap._before, tap._after):
                method(optimizer, thrower, thrower)
            tap.skip_step(thrower)
            tap.before_clip(thrower)
            tap.after_clip(thrower, thrower)
            monkeypatch.setattr(tap, "optimizer", thrower)
            tap.record_gradients()
            tap.before_clip(
                Clip(
                    parameter_ids=frozenset(),
                    with_gradient=frozenset(),
                    gives_norm=True,
                    limits=True,
                )
            )
            tap._before(thrower, (), {})
            tap._after(thrower, (), {})
            trace.step()

    record(run)
    assert any("Hostile" in text for text in warnings)
    assert len(warnings) == len(set(warnings))


@pytest.mark.parametrize(
    "place",
    [
        "modules.ModuleTap._begin",
        "modules.ModuleTap._observe_gradients",
        "modules.ModuleTap._on_gradient",
        "modules.ModuleTap._listen",
        "modules.returned_in_use",
        "modules.observe_shares",
        "calls.CallCounter.begin_call",
        "calls.CallCounter.claim_gradients",
        "calls.CallCounter.enter_backward",
        "gradients._Share.deliver",
        "gradients._sum_of",
        "parameters.ParameterGradients._add_to",
        "parameters.ParameterGradients.flush",
        "optimizers.OptimizerTap._record_given",
        "optimizers.OptimizerTap._record_result",
        "optimizer_values.OptimizerValues.parameters",
        "clip_times.Remembered.__init__",
        "recorder.TensorRecorder.refusal",
        "recorder.TensorRecorder.array",
        "step_records.StepRecords.parameters",
        "step_records.StepRecords.buffers",
        "hooks.compiled_away",
        "description.PlainDescription.activation",
        "description.PlainDescription.scale",
    ],
)
def test_a_fault_of_ttrace_itself_stays_with_ttrace(
    place, record, warnings, monkeypatch
):
    plain = train(made(MODELS["tuple"]))
    traced: list[torch.Tensor] = []

    def fail(*args, **kwargs):
        raise Hostile

    def run():
        monkeypatch.setattr(f"ttrace.frontends.torch_parts.{place}", fail)
        traced.extend(train(made(MODELS["tuple"])))

    # Where nothing at all was recorded, the trace is incomplete.
    with contextlib.suppress(IncompleteTraceError):
        record(run)
    for x, y in zip(plain, traced, strict=True):
        assert torch.equal(x, y)
    assert len(warnings) == len(set(warnings))


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("returned_in_use", "find what else uses it"),
        ("ModuleTap._listen", "observe its gradient"),
    ],
)
def test_a_graph_that_cannot_be_walked_costs_no_other_gradient(
    place, what, record, warnings, monkeypatch
):
    def fail(*args, **kwargs):
        raise Hostile

    def run():
        monkeypatch.setattr(f"ttrace.frontends.torch_parts.modules.{place}", fail)
        return train(made(MODELS["tuple"]))

    trace, _ = record(run)
    reasons = {str(id_): text.reason for id_, text in trace.info.skipped.items()}
    grad_outputs = {i: text for i, text in reasons.items() if "/grad_output/" in i}
    assert set(grad_outputs.values()) == {f"ttrace could not {what}: Hostile"}
    assert "step1/mb0/last/grad_output/0" in grad_outputs
    ids = {str(id_) for id_ in trace.info.tensors}
    assert {"step1/mb0/last/grad_input/0", "step1/mb0/last/param_grad/bias"} <= ids
    assert not warnings


def test_interruptions_are_no_faults():
    @guards.guarded("go on")
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_fault_is_reported_once_and_in_words(warnings):
    @guards.guarded("do this")
    def fail():
        raise ValueError("too much\nand more")

    assert fail() is None and fail() is None
    (text,) = warnings
    assert text.startswith("ttrace: ttrace could not do this: ValueError: too much. ")


def test_an_exception_that_cannot_be_printed_has_a_name():
    assert reason_of(Hostile(), "read it") == "ttrace could not read it: Hostile"


def test_attaching_never_raises(warnings):
    tap = OptimizerTap(NoHooks(), Thrower())  # pyright: ignore
    tap.attach()
    tap.detach()
    assert len(warnings) == 1
