"""The factor of a gradient scaler is known of every gradient of its backward."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.utils.checkpoint import checkpoint

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

OF_BACKWARD = {Kind.GRAD_OUTPUT, Kind.GRAD_INPUT, Kind.PARAM_GRAD}


class Pair(nn.Module):
    """Two modules that a loop may call apart, as those of a GAN."""

    def __init__(self, *, reentrant: bool = False):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)
        self.reentrant = reentrant

    def forward(self, x):
        if self.reentrant:
            x = checkpoint(self.first, x, use_reentrant=True)
        else:
            x = self.first(x)
        return self.second(torch.tanh(x))


def data(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=generator, requires_grad=True)


@pytest.fixture
def record(monkeypatch, tmp_path):
    """Records a loop ``(model, optimizer, trace)`` of a model and SGD."""

    def recorded(name: str, loop, *, model=None, optimizers=1) -> Trace:
        torch.manual_seed(0)
        model = model or Pair()
        out = tmp_path / name
        for variable, value in RecordRequest(out=out).to_environment().items():
            monkeypatch.setenv(variable, value)
        parts = [model] if optimizers == 1 else [model.first, model.second]
        made = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]
        with torch_capture.trace(model, *made) as trace:
            loop(model, made[0] if optimizers == 1 else made, trace)
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(out)

    return recorded


def plain(clip: float | None = None):
    """Three steps of two micro-batches each, without a scaler."""

    def loop(model, optimizer, trace):
        for step in range(3):
            for half in data(step).detach().requires_grad_().chunk(2):
                loss = model(half).pow(2).mean() / 2
                trace.loss(loss)
                loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            trace.step()

    return loop


def scaled(scaler, *, clip: float | None = None, unscales=True, scales_limit=False):
    """The same with a scaler."""

    def loop(model, optimizer, trace):
        for step in range(3):
            for half in data(step).detach().requires_grad_().chunk(2):
                loss = model(half).pow(2).mean() / 2
                trace.loss(loss)
                scaler.scale(loss).backward()
            if clip is not None:
                if unscales:
                    scaler.unscale_(optimizer)
                limit = clip * (scaler.get_scale() if scales_limit else 1)
                nn.utils.clip_grad_norm_(model.parameters(), limit)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            trace.step()

    return loop


def scales_of(trace: Trace) -> dict[tuple[int, Kind], set[float]]:
    """The scales of a run's gradients, by step and kind."""
    found: dict[tuple[int, Kind], set[float]] = {}
    for id_, record in trace.info.tensors.items():
        if id_.kind in OF_BACKWARD | {Kind.MAIN_GRAD, Kind.LOSS}:
            place = found.setdefault((id_.step, id_.kind), set())
            place.update(shard.scale for shard in record.shards)
    return found


def compare(reference: Trace, candidate: Trace):
    return compare_traces(reference, candidate, NumpyBackend())


def growing(scale: float = 1024.0, kind: type = torch.amp.GradScaler):
    kwargs = {"init_scale": scale, "growth_interval": 1, "growth_factor": 4.0}
    return kind("cpu", **kwargs)


@pytest.fixture
def one_process():
    """A process group of this process, which FSDP's scaler communicates in."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", [torch.amp.GradScaler, ShardedGradScaler])
def test_a_run_with_a_scaler_agrees_with_one_without(record, kind):
    candidate = record("candidate", scaled(growing(kind=kind)))
    report = compare(record("reference", plain()), candidate)
    assert report.verdict is Outcome.PASS, report.summary
    for (step, kind_), scales in scales_of(candidate).items():
        expected = 1024.0 * 4**step if kind_ in OF_BACKWARD else 1.0
        assert scales == {expected}, (step, kind_)


def test_the_other_way_round(record):
    report = compare(record("a", scaled(growing())), record("b", plain()))
    assert report.verdict is Outcome.PASS, report.summary


def test_a_scaler_that_is_off_has_no_factor(record):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=False)
    trace = record("trace", scaled(scaler))
    assert set().union(*scales_of(trace).values()) == {1.0}


def test_reentrant_checkpoints_run_in_the_backward_of_the_scaled_loss(record):
    model = Pair(reentrant=True)
    trace = record("trace", scaled(growing()), model=model)
    assert scales_of(trace)[0, Kind.PARAM_GRAD] == {1024.0}
    assert scales_of(trace)[2, Kind.GRAD_OUTPUT] == {1024.0 * 16}


def test_each_backward_has_the_factor_of_its_own_loss(record):
    first, second = growing(8.0), growing(64.0)

    def loop(model, optimizers, trace):
        hidden = model.first(data(0))
        losses = [hidden.pow(2).mean(), model.second(hidden.detach()).pow(2).mean()]
        (scaled_first,) = first.scale([losses[0]])
        scaled_first.backward()
        second.scale(losses[1]).backward()
        model.second(data(1)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        trace.step()

    trace = record("trace", loop, optimizers=2)
    found = {
        (str(id_.module), id_.call): record.shards[0].scale
        for id_, record in trace.info.tensors.items()
        if id_.kind is Kind.GRAD_OUTPUT
    }
    assert found == {("first", 0): 8.0, ("second", 0): 64.0, ("second", 1): 1.0}


def test_two_scaled_losses_that_reach_one_parameter_are_added_in_one_scale(record):
    """Such as those of a GAN, each with its scaler, through the discriminator."""

    def loop(*scalers):
        def run(model, optimizer, trace):
            for index, scaler in enumerate(scalers):
                loss = model.first(data(index)).pow(2).mean()
                (loss if scaler is None else scaler.scale(loss)).backward()
            with torch.no_grad():  # as each scaler would unscale its own
                for parameter in model.parameters():
                    parameter.grad = None
            optimizer.step()
            trace.step()

        return run

    reference = record("reference", loop(None, None))
    candidate = record("candidate", loop(growing(8.0), growing(64.0)))
    report = compare(reference, candidate)
    sums = [tensor for tensor in report.tensors if tensor.kind == "param_grad"]
    assert [tensor.status for tensor in sums] == ["passed"] * 2


def test_nothing_is_left_of_a_backward_that_was_interrupted(record):
    def loop(model, optimizer, trace):
        out = model(data(0))

        def stop(gradient):
            raise RuntimeError("out of memory")

        handle = out.register_hook(stop)
        scaler = growing()
        with pytest.raises(RuntimeError, match="out of memory"):
            scaler.scale(out.sum()).backward()
        handle.remove()
        trace.step()
        scaler.scale(torch.zeros(()))
        model(data(1)).sum().backward()
        optimizer.step()
        trace.step()

    trace = record("trace", loop)
    assert scales_of(trace)[1, Kind.PARAM_GRAD] == {1.0}


def test_a_loss_that_the_scaler_made_carries_its_factor(record):
    def loop(model, optimizer, trace):
        loss = growing().scale(model(data(0)).sum())
        trace.loss(loss)
        loss.backward()
        optimizer.step()
        trace.step()

    assert scales_of(record("trace", loop))[0, Kind.LOSS] == {1024.0}


def test_what_is_clipped_before_it_is_unscaled_is_named_where_it_is_wrong(record):
    reference = record("reference", plain(clip=0.05))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    candidate = record("candidate", scaled(scaler, clip=0.05, unscales=False))
    report = compare(reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    first = report.first_divergence
    assert first is not None and first.kind == "clipped_grad"
    diagnosis = report.diagnosis[0]
    assert diagnosis.code == "scaled_clipping"
    assert diagnosis.sentence == (
        "step 0 of the candidate clips its gradients while they are still scaled by "
        "1024, so that the limit counts as 1/1024 of itself: call "
        "scaler.unscale_(optimizer) between the last backward and the clipping"
    )
    assert "clipping" not in {each.code for each in report.diagnosis}


@pytest.mark.parametrize("unscales", [True, False])
def test_a_limit_that_has_the_scale_in_it_is_right(record, unscales):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loop = scaled(scaler, clip=0.05, unscales=unscales, scales_limit=not unscales)
    report = compare(record("reference", plain(clip=0.05)), record("candidate", loop))
    assert report.verdict is Outcome.PASS, report.summary
    norms = [tensor for tensor in report.tensors if tensor.kind == "grad_norm"]
    assert len(norms) == 3


def test_gradients_that_are_never_unscaled_differ(record):
    """The optimizer gets them as they are: no scale of theirs is to be believed."""

    def loop(model, optimizer, trace):
        growing().scale(model(data(0)).pow(2).mean()).backward()
        optimizer.step()
        trace.step()

    def right(model, optimizer, trace):
        model(data(0)).pow(2).mean().backward()
        optimizer.step()
        trace.step()

    report = compare(record("reference", right), record("candidate", loop))
    first = report.first_divergence
    assert first is not None and first.kind in ("main_grad", "grad_norm")
    scaled_ = next(each for each in report.diagnosis if each.code == "scaled")
    assert "are 1024 times the reference" in scaled_.sentence


def test_classes_are_as_they_were_afterwards(record):
    names = [
        (kind, name)
        for kind in (torch.amp.GradScaler, ShardedGradScaler)
        for name in ("scale", "unscale_", "step")
    ]
    before = [getattr(kind, name) for kind, name in names]
    record("trace", scaled(growing()))
    assert [getattr(kind, name) for kind, name in names] == before
