"""What an optimizer is given: behind a closure, and by torch's clipping functions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts import clips
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

STEPS = 2


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(step))


def make() -> tuple[nn.Linear, torch.optim.SGD]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Runs a training function while it is recorded, into a trace of its own."""

    def recorded(name: str, train) -> Trace:
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        train()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out)

    return recorded


def outcome(reference: Trace, candidate: Trace) -> tuple[Outcome, str | None]:
    report = compare_traces(reference, candidate, NumpyBackend())
    first = report.first_divergence
    return report.verdict, None if first is None else str(first.id)


def arrays(trace: Trace) -> dict[str, np.ndarray]:
    return {
        str(id_): trace.load(record.shards[0])
        for id_, record in trace.info.tensors.items()
    }


def loop(*, as_closure: bool, clip=None, zero: bool = True, before=lambda trace: None):
    def train():
        model, optimizer = make()
        with torch_capture.trace(model, optimizer) as trace:
            for step in range(STEPS):

                def closure(step=step):
                    if zero:
                        optimizer.zero_grad()
                    loss = model(batch(step)).square().mean()
                    trace.loss(loss)
                    loss.backward()
                    before(trace)
                    if clip is not None:
                        clip(model)
                    return loss

                if as_closure:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
                trace.step()
        return model

    return train


def clip_by_norm(model: nn.Module) -> None:
    clip_grad_norm_(model.parameters(), 0.01)


def test_a_closure_gives_the_gradients_that_it_computes(record):
    plain = record("plain", loop(as_closure=False))
    closure = record("closure", loop(as_closure=True))
    assert outcome(plain, closure) == (Outcome.PASS, None)
    keys = {"step0/@root/main_grad/weight", "step0/@root/grad_norm"}
    assert keys <= arrays(closure).keys()


def test_a_bug_behind_a_closure_is_found(record):
    plain = record("plain", loop(as_closure=False))
    wrong = record("wrong", loop(as_closure=True, zero=False))
    verdict = outcome(plain, wrong)
    assert verdict == (Outcome.DIVERGED, "step1/@root/main_grad/weight")


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_gets_its_arguments_and_its_result_is_returned(record, as_keyword):
    model, optimizer = make()
    given = []

    class Calling(torch.optim.SGD):
        def step(self, closure=None):  # pyright: ignore
            assert closure is not None
            return closure("argument", word=1)

    optimizer = Calling(model.parameters(), lr=0.1)

    def closure(*args, **kwargs):
        given.append((args, kwargs))
        return "result"

    def train():
        with torch_capture.trace(model, optimizer) as trace:
            step = (
                optimizer.step(closure=closure)  # pyright: ignore
                if as_keyword
                else optimizer.step(closure)  # pyright: ignore
            )
            assert step == "result"
            trace.step()

    record("trace", train)
    assert given == [(("argument",), {"word": 1})]


def test_of_lbfgs_every_call_is_recorded(record):
    gradients, parameters = [], []

    def train():
        model, _ = make()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
        with torch_capture.trace(model, optimizer) as trace:
            for _ in range(STEPS):

                def closure():
                    parameters.append(model.weight.detach().clone())
                    optimizer.zero_grad()
                    loss = model(batch(0)).square().mean()
                    loss.backward()
                    assert model.weight.grad is not None
                    gradients.append(model.weight.grad.clone())
                    return loss

                optimizer.step(closure)  # pyright: ignore
                trace.step()
        parameters.append(model.weight.detach().clone())

    found = arrays(record("trace", train))
    assert len(gradients) == 3 * STEPS
    for number, gradient in enumerate(gradients):
        step, call = divmod(number, 3)
        suffix = f"/call{call}" if call else ""
        key = f"step{step}/@root/main_grad/weight{suffix}"
        np.testing.assert_array_equal(found[key], gradient.numpy())
        key = f"step{step}/@root/updated_param/weight{suffix}"
        np.testing.assert_array_equal(found[key], parameters[number + 1].numpy())


def test_an_optimizer_that_calls_no_closure_has_what_it_found(record):
    class Deaf(torch.optim.SGD):
        def step(self, closure=None):  # pyright: ignore
            return super().step()

    def train():
        model, _ = make()
        optimizer = Deaf(model.parameters(), lr=0.1)
        with torch_capture.trace(model, optimizer) as trace:
            model(batch(0)).sum().backward()
            optimizer.step(lambda: None)
            trace.step()

    assert "step0/@root/main_grad/weight" in arrays(record("trace", train))


def test_clipping_is_seen_although_the_function_was_imported_by_name(record):
    norms, clipped = [], []

    def clip(model):
        norms.append(clip_grad_norm_(model.parameters(), 0.01))
        clipped.append(model.weight.grad.clone())

    found = arrays(record("trace", loop(as_closure=False, clip=clip)))
    for step in range(STEPS):
        main = found[f"step{step}/@root/main_grad/weight"]
        assert np.linalg.norm(main) > 0.01
        key = f"step{step}/@root/clipped_grad/weight"
        np.testing.assert_array_equal(found[key], clipped[step].numpy())
        norm = found[f"step{step}/@root/grad_norm"]
        assert norm == norms[step].numpy() and norm.dtype == np.float32


def test_clipping_inside_of_a_closure_is_seen(record):
    plain = record("plain", loop(as_closure=False, clip=clip_by_norm))
    closure = record("closure", loop(as_closure=True, clip=clip_by_norm))
    assert outcome(plain, closure) == (Outcome.PASS, None)
    assert "step1/@root/clipped_grad/bias" in arrays(closure)


def test_a_script_that_also_says_it_records_once(record):
    def say(trace):
        trace.main_grads()

    seen = record("seen", loop(as_closure=False, clip=clip_by_norm))
    said = record("said", loop(as_closure=False, clip=clip_by_norm, before=say))
    assert seen.info.tensors.keys() == said.info.tensors.keys()
    assert outcome(seen, said) == (Outcome.PASS, None)


def test_clipping_by_hand_is_seen_once_the_script_says_where(record):
    def by_hand(model):
        for parameter in model.parameters():
            parameter.grad.clamp_(-0.01, 0.01)

    def by_torch(model):
        clip_grad_value_(model.parameters(), 0.01)

    by_hand_trace = record(
        "hand",
        loop(as_closure=False, clip=by_hand, before=lambda trace: trace.main_grads()),
    )
    by_torch_trace = record("torch", loop(as_closure=False, clip=by_torch))
    assert outcome(by_torch_trace, by_hand_trace) == (Outcome.PASS, None)
    assert "step0/@root/clipped_grad/weight" in arrays(by_hand_trace)


def test_a_run_that_does_not_clip_is_told_from_one_that_does(record):
    clips_ = record("clips", loop(as_closure=False, clip=clip_by_norm))
    does_not = record("plain", loop(as_closure=False))
    assert outcome(clips_, does_not)[0] is Outcome.DIVERGED
    assert "step0/@root/clipped_grad/weight" not in arrays(does_not)


def test_an_infinite_limit_only_asks_for_the_norm(record):
    def ask(model):
        clip_grad_norm_(model.parameters(), float("inf"))

    asked = record("asked", loop(as_closure=False, clip=ask))
    plain = record("plain", loop(as_closure=False))
    assert outcome(plain, asked) == (Outcome.PASS, None)
    assert asked.info.tensors.keys() == plain.info.tensors.keys()


def test_gradients_that_are_left_over_are_not_those_of_the_step(record):
    """Clipping comes before the backward pass that should have come first."""

    def train():
        model, optimizer = make()
        with torch_capture.trace(model, optimizer) as trace:
            for step in range(STEPS):
                loss = model(batch(step)).square().mean()
                clip_by_norm(model)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                trace.step()

    early = record("early", train)
    right = record("right", loop(as_closure=False, clip=clip_by_norm))
    assert not any("clipped_grad" in key for key in arrays(early))
    np.testing.assert_array_equal(
        arrays(early)["step0/@root/main_grad/weight"],
        arrays(right)["step0/@root/main_grad/weight"],
    )
    verdict = outcome(right, early)
    first = "step0/@root/optimizer_state/weight.momentum_buffer"
    assert verdict == (Outcome.DIVERGED, first)


def test_two_optimizers_each_have_the_norm_of_their_own_gradients(record):
    def train():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
        first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in model)
        with torch_capture.trace(model, first, second) as trace:
            model(batch(0)).sum().backward()
            clip_grad_norm_(model.parameters(), 0.01)  # the norm of neither
            first.step()
            second.step()
            trace.step()

    found = arrays(record("trace", train))
    for slot, module in (("grad_norm", 0), ("grad_norm/group1", 1)):
        expected = np.linalg.norm(found[f"step0/{module}/main_grad/weight"])
        np.testing.assert_allclose(found[f"step0/@root/{slot}"], expected, rtol=1e-6)
        assert f"step0/{module}/clipped_grad/weight" in found


def test_clipping_gives_the_same_bits_and_generators_are_read_once(record):
    plain = loop(as_closure=False, clip=clip_by_norm)()
    traced = []

    def train():
        traced.append(loop(as_closure=False, clip=clip_by_norm)())

    record("trace", train)
    for x, y in zip(plain.parameters(), traced[0].parameters(), strict=True):
        assert torch.equal(x, y)


def test_after_the_trace_the_functions_are_what_they_were(record):
    functions = [
        getattr(torch.nn.utils.clip_grad, name)
        for name in ("clip_grad_norm_", "clip_grad_value_", "_clip_grads_with_norm_")
    ]
    inner = [clips._inner_cell(function) for function in functions]
    assert all(cell is not None for cell in inner)
    before = [cell.cell_contents for cell in inner if cell is not None]
    record("trace", loop(as_closure=False))
    assert before == [cell.cell_contents for cell in inner if cell is not None]


def test_an_exception_of_the_function_reaches_the_script_and_no_other(record):
    def train():
        model, optimizer = make()
        with torch_capture.trace(model, optimizer) as trace:
            model(batch(0)).sum().backward()
            with pytest.raises(TypeError):
                clip_grad_norm_(7, 1.0)  # pyright: ignore
            model.weight.grad = torch.full_like(model.weight, float("nan"))
            with pytest.raises(RuntimeError, match="non-finite"):
                clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            clip_by_norm(model)
            optimizer.step()
            trace.step()

    record("trace", train)


def test_a_full_backward_pass_over_a_paused_clip_is_not_recorded(record):
    def train():
        model, optimizer = make()
        with torch_capture.trace(model, optimizer) as trace:
            model(batch(0)).sum().backward()
            with trace.paused():
                clip_by_norm(model)
            optimizer.step()
            trace.step()

    found = arrays(record("trace", train))
    main = found["step0/@root/main_grad/weight"]
    assert np.linalg.norm(main) < 0.011
