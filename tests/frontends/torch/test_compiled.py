"""``torch.compile``: regions are observed from outside, and training stays as it is."""

import pytest
import torch
import torch._dynamo.config as dynamo_config
from absl import logging
from torch import nn

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.compiled import INSIDE
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces, estimate_tolerance
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

# Dynamo's own: it looks at tensors that are no leaves, with and without a trace, and
# inductor uses what is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.register_buffer("own", torch.ones(2))

    def forward(self, x):
        return self.last(self.norm(self.first(x))) + x


@pytest.fixture(autouse=True)
def _fresh_dynamo(monkeypatch):
    # Megatron's examples switch Dynamo off, for the process that they run in.
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    torch.compiler.reset()
    with dynamo_config.patch(disable=False):
        yield
    torch.compiler.reset()
    torch.compiler.set_stance("default")


def train(
    early=lambda model, compiled: model,
    late=lambda model, compiled: None,
    *,
    factor: float = 1.0,
    backend="aot_eager",
) -> list[torch.Tensor]:
    """Two steps; ``early`` and ``late`` compile before and after the trace begins."""
    torch.manual_seed(0)
    plain = Model()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1)

    def compiled(module, **options):
        return torch.compile(module, backend=backend, fullgraph=True, **options)

    model = early(plain, compiled)
    results = []
    with torch_capture.trace(model, optimizer) as trace:
        replaced = late(model, compiled)
        model = model if replaced is None else replaced
        for step in range(2):
            for part in range(2):
                generator = torch.Generator().manual_seed(2 * step + part)
                x = torch.randn(4, 4, generator=generator, requires_grad=True)
                loss = model(x).square().mean() * factor
                trace.loss(loss)
                loss.backward()
                results += [loss.detach(), x.grad]
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return [*results, *(p.detach() for p in plain.parameters())]


@pytest.fixture
def record(monkeypatch, tmp_path):
    def recorded(name: str, *how, kinds=None, noise_seed=None, **options):
        request = RecordRequest(
            out=tmp_path / name,
            capture=CaptureFilter(kinds=kinds),
            noise_seed=noise_seed,
        )
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        results = train(*how, **options)
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out), results

    return recorded


def compare(reference: Trace, candidate: Trace):
    return compare_traces(reference, candidate, NumpyBackend())


def whole(model, compiled):
    return compiled(model)


def in_place(model, compiled):
    model.compile(backend="aot_eager", fullgraph=True)
    return model


def part(model, compiled):
    model.last = compiled(model.last)
    return model


EARLY = {"whole": whole, "in_place": in_place, "part": part}


@pytest.mark.parametrize("how", EARLY)
def test_eager_against_compiled_passes(record, how):
    eager, _ = record("eager")
    compiled, _ = record("compiled", EARLY[how])
    report = compare(eager, compiled)
    assert report.verdict is Outcome.PASS, report.summary
    for kind in ("updated_param", "main_grad", "param_grad", "buffer", "loss"):
        assert not report.coverage[kind].skipped and report.coverage[kind].compared
    reasons = {text.reason for text in compiled.info.skipped.values()}
    assert reasons == {INSIDE}
    assert not any("_orig_mod" in str(id_) for id_ in compiled.info.tensors)
    passed = {t.id for t in report.tensors if t.status == "passed"}
    assert {"step1/mb1/@root/output/0", "step1/mb1/@root/grad_input/0"} <= passed
    assert ("step1/mb1/first/output/0" in passed) is (how == "part")
    assert "step0/@root/updated_buffer/own" in passed
    if how == "part":
        assert {"step1/mb1/last/output/0", "step1/mb1/last/grad_output/0"} <= passed


@pytest.mark.slow
def test_eager_against_inductor_passes(record):
    """It fuses operations and so rounds otherwise, as far as noise runs tell."""
    eager, _ = record("eager")
    noisy = [record(f"noise{seed}", noise_seed=seed)[0] for seed in (1, 2, 3)]
    compiled, _ = record("compiled", whole, backend="inductor")
    tolerances = estimate_tolerance(eager, noisy, backend="numpy")
    report = compare_traces(eager, compiled, NumpyBackend(), tolerances=tolerances)
    assert report.verdict is Outcome.PASS, report.summary


@pytest.mark.parametrize("how", EARLY)
def test_a_difference_of_a_compiled_model_is_found(record, how):
    eager, _ = record("eager")
    wrong, _ = record("wrong", EARLY[how], factor=1.5)
    report = compare(eager, wrong)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/@root/loss"


def late_whole(model, compiled):
    return compiled(model)


def late_part(model, compiled):
    model.last = compiled(model.last)


def late_in_place(model, compiled):
    model.compile(backend="aot_eager", fullgraph=True)


LATE = {"whole": late_whole, "part": late_part, "in_place": late_in_place}


@pytest.mark.parametrize("how", [*EARLY, *(f"late_{name}" for name in LATE)])
def test_no_bit_of_the_training_changes(record, how):
    late = LATE.get(how.removeprefix("late_")) if how not in EARLY else None
    hows = (EARLY[how],) if late is None else (lambda model, _: model, late)
    plain = train(*hows)
    torch.compiler.reset()
    _, traced = record("traced", *hows)
    for x, y in zip(plain, traced, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("how", LATE)
def test_what_is_compiled_after_the_trace_began_is_never_missing_in_silence(
    record, how
):
    eager, _ = record("eager")
    late, _ = record("late", lambda model, _: model, LATE[how])
    report = compare(eager, late)
    assert report.coverage["updated_param"].skipped == 0
    unmatched = [t.id for t in report.tensors if t.status == "unmatched"]
    assert not [id_ for id_ in unmatched if "/mb0/" in id_]


def test_a_model_that_only_runs_compiled_is_named_in_the_log(record, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda *args: warnings.append(args))
    record("late", lambda model, _: model, late_whole)
    texts = [text % tuple(args) for text, *args in warnings]
    remedy = "give trace() what torch.compile() returned"
    assert len([text for text in texts if remedy in text]) == 1


def test_noise_reaches_a_compiled_region(record):
    quiet, _ = record("quiet", whole)
    noisy, _ = record("noisy", whole, noise_seed=1)
    report = compare(quiet, noisy)
    different = {t.id for t in report.tensors if t.num_unequal}
    assert {"step0/mb0/@root/output/0", "step1/@root/updated_buffer/own"} & different
    assert any("main_grad" in id_ for id_ in different)


def test_a_stance_shows_what_is_inside(record):
    torch.compiler.set_stance("force_eager")
    trace, _ = record("trace", whole)
    assert not trace.info.skipped
    assert "step1/mb1/last.1/output/0" in {str(id_) for id_ in trace.info.tensors}


def test_after_the_trace_a_module_compiled_in_place_is_what_it_was(record):
    models = []

    def keep(model, compiled):
        in_place(model, compiled)
        models.append((model, model._compiled_call_impl))
        return model

    record("trace", keep, kinds=frozenset({Kind.OUTPUT}))
    ((model, call),) = models
    assert model._compiled_call_impl is call
