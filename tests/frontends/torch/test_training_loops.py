"""Loops that a library runs: traced by a callback, like a loop written by hand."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.factories import lightning_job
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import TraceError
from ttrace.examples.huggingface import accelerate_train, trainer_train
from ttrace.frontends.torch_parts.loops import train_loop
from ttrace.frontends.torch_training_loops import trainer_callback
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace

Record = Callable[[str, Callable[[], object]], Trace]

ONE_BATCH = ["--global-batch-size", "2", "--max-grad-norm", "0"]
EVALUATING = ["--evaluate", "--global-batch-size", "4", "--model", "gpt2"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    # transformers and Lightning warn of each other's and of torch's deprecations.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Record:
    """Runs a training while it is recorded, into a trace of its own."""

    def recorded(name: str, train: Callable[[], object]) -> Trace:
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        train()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(request.out)

    return recorded


def kinds_of(trace: Trace) -> dict[str, int]:
    counts: dict[str, int] = {}
    for id_ in trace.info.tensors:
        counts[id_.kind.value] = counts.get(id_.kind.value, 0) + 1
    return counts


def compare(reference: Trace, candidate: Trace) -> Report:
    return compare_traces(reference, candidate, NumpyBackend())


class TestTrainer:
    def test_an_evaluation_is_neither_recorded_nor_counted(self, record):
        traces = [
            record("plain", lambda: trainer_train.main(EVALUATING[1:])),
            record("evaluating", lambda: trainer_train.main(EVALUATING)),
        ]
        assert kinds_of(traces[0]) == kinds_of(traces[1])
        assert kinds_of(traces[0])["loss"] == 4  # two micro-batches of two steps
        assert compare(*traces).verdict is Outcome.PASS

    def test_the_trainer_and_a_loop_of_accelerate_are_the_same_training(self, record):
        """The callback sees what ``torch_capture.trace`` sees in a loop."""
        options = ["--train-iters", "1", "--optimizer", "sgd", "--model", "llama"]
        trainer = record("trainer", lambda: trainer_train.main([*options, *ONE_BATCH]))
        loop = record("loop", lambda: accelerate_train.main([*options, *ONE_BATCH]))
        report = compare(loop, trainer)
        assert {t.id for t in report.tensors if t.status == "failed"} == set()
        # The number of tokens is given to the model by the Trainer alone, which also
        # sets the parameters apart that are not to decay.
        unmatched = {t.id for t in report.tensors if t.status == "unmatched"}
        assert unmatched <= {"step0/@root/learning_rate/group1"}
        assert report.counts.passed > 200

    def test_tracing_changes_no_bit(self, record, monkeypatch):
        parameters = []
        monkeypatch.setattr(
            trainer_train,
            "build_model",
            lambda *args, **kwargs: keep(build(*args, **kwargs), parameters),
        )
        trainer_train.main(EVALUATING)
        original = train_loop.Trainer.compute_loss
        record("traced", lambda: trainer_train.main(EVALUATING))
        assert train_loop.Trainer.compute_loss is original
        plain, traced = (dict(model.named_parameters()) for model in parameters)
        for name, parameter in plain.items():
            assert torch.equal(parameter, traced[name]), name

    def test_a_second_training_is_said_not_to_be_recorded(self, record, caplog):
        callback = trainer_callback()

        def train_twice() -> None:
            for _ in range(2):
                loop = callback._loop
                model = torch.nn.Linear(2, 2)
                loop.begin(model)
                if loop.is_open:
                    loop.enter_step()
                    model(torch.ones(1, 2))
                    loop.trace.step()
                    loop.end()

        with caplog.at_level(logging.WARNING, logger="absl"):
            trace = record("twice", train_twice)
        assert kinds_of(trace)["output"] == 1
        assert "the trace of this process is that of the first one" in caplog.text

    def test_in_a_plain_run_nothing_happens(self):
        callback = trainer_callback()
        callback._loop.begin(torch.nn.Linear(2, 2))
        assert not callback._loop.is_open
        with callback.trace.paused():
            callback.trace.step()


build = trainer_train.build_model


def keep(model: torch.nn.Module, models: list[torch.nn.Module]) -> torch.nn.Module:
    models.append(model)
    return model


class TestLightning:
    def test_a_part_is_traced_like_a_loop_by_hand(self, record):
        plain = record(
            "plain", lambda: lightning_job.train_plainly(lightning_job.make_net())
        )
        fitted = record(
            "fitted", lambda: lightning_job.fit(lightning_job.Module(), part="net")
        )
        report = compare(plain, fitted)
        assert report.verdict is Outcome.PASS, report.first_divergence
        assert kinds_of(plain) == kinds_of(fitted)
        assert kinds_of(fitted)["clipped_grad"] == 8

    def test_clipping_before_backward_is_found_in_what_the_optimizer_gets(self, record):
        plain = record(
            "plain", lambda: lightning_job.train_plainly(lightning_job.make_net())
        )
        early = record(
            "early",
            lambda: lightning_job.fit(
                lightning_job.Module(clips_early=True), part="net"
            ),
        )
        report = compare(plain, early)
        assert report.verdict is Outcome.DIVERGED
        assert report.first_divergence is not None
        assert report.first_divergence.id == "step0/0/main_grad/weight"

    def test_the_whole_module_has_the_batch_as_inputs_and_the_loss_as_output(
        self, record
    ):
        trace = record("whole", lambda: lightning_job.fit(lightning_job.Module()))
        root = {
            str(id_)
            for id_ in trace.info.tensors
            if id_.module == "@root" and id_.step == 0 and id_.microbatch == 1
        }
        assert root == {
            f"step0/mb1/@root/{what}"
            for what in ("input/0", "output/0", "grad_output/0", "loss")
        }
        by_id = {str(id_): record for id_, record in trace.info.tensors.items()}
        loss, output = (
            trace.load(by_id[f"step0/mb1/@root/{what}"].shards[0])
            for what in ("loss", "output/0")
        )
        assert loss * lightning_job.MICROBATCHES == pytest.approx(output)

    def test_tracing_changes_no_bit(self, record):
        modules = [lightning_job.Module(), lightning_job.Module()]
        lightning_job.fit(modules[0])
        record("traced", lambda: lightning_job.fit(modules[1]))
        plain, traced = (dict(module.named_parameters()) for module in modules)
        for name, parameter in plain.items():
            assert torch.equal(parameter, traced[name]), name
        assert "training_step" not in vars(modules[1])

    def test_an_exception_leaves_the_trace_incomplete(self, monkeypatch, tmp_path):
        def fail(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("out of patience")
            return step(self, batch, batch_idx)

        step = lightning_job.Module.training_step
        monkeypatch.setattr(lightning_job.Module, "training_step", fail)
        request = RecordRequest(out=tmp_path / "failed")
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        with pytest.raises(RuntimeError, match="out of patience"):
            lightning_job.fit(lightning_job.Module())
        with pytest.raises(TraceError, match="out of patience"):
            open_trace(request.out)
