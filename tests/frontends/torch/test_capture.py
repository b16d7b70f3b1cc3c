import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest
import torch
from torch import nn

from ttrace.errors import IncompleteTraceError, TraceExistsError, UsageError
from ttrace.frontends import torch_capture
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.judge.runs.remarks import repeats_in
from ttrace.judge.runs.trace_lines import early_step, has_no_optimizer
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import Trace, open_trace


@pytest.fixture
def switch_on(monkeypatch, tmp_path):
    """Requests a recording as ``ttrace record`` does; returns the trace's path."""

    def set_request(**options) -> Path:
        filters = options.pop("filters", {})
        request = RecordRequest(
            out=tmp_path / "trace", capture=CaptureFilter(**filters), **options
        )
        for name, value in request.to_environment().items():
            monkeypatch.setenv(name, value)
        return request.out

    return set_request


def train(num_steps: int = 2, fails_in_step: int | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(num_steps):
            for _ in range(2):
                loss = model(torch.randn(3, 4)).square().mean()
                loss.backward()
                trace.loss(loss)
            if step == fails_in_step:
                raise RuntimeError("out of luck")
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    return model


def kinds_of(trace: Trace) -> set[Kind]:
    return {id_.kind for id_ in trace.info.tensors}


def test_nothing_happens_in_a_plain_run(monkeypatch):
    monkeypatch.delenv(RECORD_VARIABLE, raising=False)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    with torch_capture.trace(model, optimizer) as trace:
        assert not model._forward_hooks and not model._forward_pre_hooks
        assert not optimizer._optimizer_step_pre_hooks
        trace.loss(1.0)
        trace.main_grads()
        with trace.paused():
            model(torch.ones(1))
        trace.step()


def test_a_training_loop_ends_up_on_disk(switch_on):
    path = switch_on()
    model = train()
    trace = open_trace(path)
    assert not trace.info.skipped
    without = {
        Kind.BUFFER,
        Kind.UPDATED_BUFFER,
        Kind.CLIPPED_GRAD,
        Kind.WRITTEN_PARAM,
    }
    assert kinds_of(trace) == set(Kind) - {Kind.OP, Kind.COLLECTIVE} - without
    by_text = {str(id_): record for id_, record in trace.info.tensors.items()}
    (shard,) = by_text["step1/2/updated_param/weight"].shards
    weight = dict(model.named_parameters())["2.weight"]
    assert torch.equal(torch.tensor(trace.load(shard)), weight)
    assert shard.exact_replicas
    (rank,) = trace.info.ranks
    assert rank.framework == "torch"
    assert rank.settings["parameter_dtypes"] == "float32"
    assert rank.versions["torch"] == torch.__version__
    assert sum(text.startswith("step0/0/param/") for text in by_text) == 2
    assert not any(text.startswith("step1/0/param/") for text in by_text)


def test_a_training_loop_that_raises_leaves_its_trace_incomplete(switch_on):
    path = switch_on()
    with pytest.raises(RuntimeError, match="out of luck"):
        train(fails_in_step=1)
    with pytest.raises(IncompleteTraceError, match="out of luck"):
        open_trace(path)


def test_a_trace_without_records_is_incomplete(switch_on):
    path = switch_on(filters={"kinds": frozenset({Kind.OUTPUT})})
    train(num_steps=0)
    with pytest.raises(IncompleteTraceError, match="nothing was recorded"):
        open_trace(path)


def test_filters_are_obeyed_and_noted(switch_on):
    path = switch_on(
        filters={
            "kinds": frozenset({Kind.OUTPUT, Kind.MAIN_GRAD}),
            "steps": frozenset({1}),
            "modules": ("2", "@root"),
        }
    )
    train(num_steps=3)
    trace = open_trace(path)
    assert [str(id_) for id_ in trace.info.tensors] == [
        "step1/mb0/2/output/0",
        "step1/mb0/@root/output/0",
        "step1/mb1/2/output/0",
        "step1/mb1/@root/output/0",
        "step1/2/main_grad/weight",
        "step1/2/main_grad/bias",
    ]
    assert trace.info.ranks[0].capture == {
        "kinds": "main_grad,output",
        "steps": "1",
        "modules": "2,@root",
    }


def test_a_filter_that_leaves_no_rank_is_a_usage_error(switch_on):
    switch_on(filters={"ranks": frozenset({3})})
    with pytest.raises(UsageError, match="no rank"):
        train()


def test_a_perturbed_run_says_so(switch_on):
    path = switch_on(noise_seed=2)
    train()
    assert open_trace(path).info.ranks[0].noise_seed == 2


def test_several_optimizers_have_their_groups_numbered_on(switch_on):
    path = switch_on(filters={"kinds": frozenset({Kind.LEARNING_RATE, Kind.MAIN_GRAD})})
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first = torch.optim.SGD(model[0].parameters(), lr=0.5)
    second = torch.optim.Adam(model[1].parameters(), lr=0.25)
    with torch_capture.trace(model, first, second):
        model(torch.ones(2)).sum().backward()
        first.step()
        second.step()
    trace = open_trace(path)
    rates = {
        id_.slot: float(trace.load(record.shards[0]))
        for id_, record in trace.info.tensors.items()
        if id_.kind is Kind.LEARNING_RATE
    }
    assert rates == {"group0": 0.5, "group1": 0.25}
    assert len(trace.info.tensors) == 2 + 4


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8))],
)
def test_the_place_in_a_run_comes_from_the_launcher(environment, expected):
    assert torch_capture.place_in_run(environment) == expected


DISTRIBUTED_SCRIPT = """
    import os
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from ttrace.frontends import torch_capture

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=os.environ["STORE"],
        rank=int(os.environ["RANK"]),
        world_size=2,
    )
    torch.manual_seed(0)
    batches = torch.randn(4, 3, 4)  # by global micro-batch
    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for local in range(2):
            batch = batches[2 * local + dist.get_rank()]
            loss = model(batch).square().mean()
            loss.backward()
            trace.loss(loss)
        optimizer.step()
        trace.step()
    total = sum(p.double().sum() for p in model.parameters()).item()
    print(f"sum {total!r}")
    dist.destroy_process_group()
"""


def run_distributed(script: Path) -> str:
    """Runs the script in two processes; the line that rank 0 prints."""
    # They meet over a file: a free port may be taken before they bind it.
    store = script.with_name(f"store{uuid.uuid4().hex}")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={
                **os.environ,
                "STORE": f"file://{store}",
                "RANK": str(rank),
                "WORLD_SIZE": "2",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), outputs
    return next(line for line in outputs[0].splitlines() if line.startswith("sum"))


@pytest.mark.slow
def test_data_parallel_ranks_share_one_trace_and_stay_bitwise_equal(
    tmp_path, switch_on
):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(DISTRIBUTED_SCRIPT))
    plain = run_distributed(script)
    path = switch_on()
    assert run_distributed(script) == plain
    trace = open_trace(path)
    assert [rank.world_size for rank in trace.info.ranks] == [2, 2]
    losses = [id_ for id_ in trace.info.tensors if id_.kind is Kind.LOSS]
    assert sorted(id_.microbatch or 0 for id_ in losses) == [0, 1, 2, 3]
    for id_, record in trace.info.tensors.items():
        arrays = [trace.load(shard) for shard in record.shards]
        assert len(arrays) == (2 if id_.microbatch is None else 1)
        assert all(array.tobytes() == arrays[0].tobytes() for array in arrays)


def test_a_forgotten_step_is_warned_of(switch_on, caplog):
    path = switch_on()
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer):
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    said = (
        "the optimizer has taken a second step in step 0 of the trace. Is trace.step()"
    )
    assert caplog.text.count(said) == 1
    repeats = repeats_in(open_trace(path).info)
    assert repeats is not None and repeats.startswith("2 tensors came twice, and only ")
    assert "Is trace.step() missing at the end of a step" in repeats


def test_an_ended_step_is_not(switch_on, caplog):
    path = switch_on()
    train()
    assert "second step" not in caplog.text
    assert repeats_in(open_trace(path).info) is None


def test_a_trace_is_entered_once(switch_on):
    switch_on()
    model = nn.Linear(2, 2)
    with torch_capture.trace(model):
        with pytest.raises(TraceExistsError, match="inside of another one"):
            with torch_capture.trace(model):
                pass
        model(torch.ones(1, 2))
    with pytest.raises(TraceExistsError, match="a second time in one process"):
        with torch_capture.trace(model):
            pass


def test_steps_that_the_run_did_not_have(switch_on):
    path = switch_on(filters={"steps": frozenset({9})})
    train(num_steps=2)
    with pytest.raises(IncompleteTraceError) as caught:
        open_trace(path)
    assert caught.value.got == (
        "rank00000: the run had steps 0-1, and --steps asks for 9"
    )


def test_a_step_that_is_ended_before_the_optimizers(switch_on):
    path = switch_on()
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        for _ in range(2):
            model(torch.ones(1, 2)).sum().backward()
            trace.step()
            optimizer.step()
    assert early_step(open_trace(path).info) == 0


def test_a_step_that_is_ended_in_time_is_not_early(switch_on):
    path = switch_on()
    train()
    info = open_trace(path).info
    assert early_step(info) is None and not has_no_optimizer(info)


def test_a_trace_that_is_given_no_optimizer_says_so(switch_on):
    path = switch_on()
    model = nn.Linear(2, 2)
    with torch_capture.trace(model):
        model(torch.ones(1, 2))
    assert has_no_optimizer(open_trace(path).info)


def test_several_losses_of_a_micro_batch_are_calls(switch_on):
    """As those of a GAN: each is recorded behind the forward that it comes from."""
    path = switch_on()
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    with torch_capture.trace(model, optimizer) as trace:
        for step in range(2):
            out = model(torch.ones(1, 2))
            for factor in (1, 2):
                loss = out.sum() * factor + step
                trace.loss(loss)
                loss.backward(retain_graph=True)
            with trace.paused():
                trace.loss(0.0)
            trace.loss(3.0, microbatch=0)
            optimizer.step()
            trace.step()
    info = open_trace(path).info
    losses = [str(id_) for id_ in info.tensors if id_.kind is Kind.LOSS]
    assert sorted(losses) == [
        f"step{step}/mb0/@root/loss{call}"
        for step in range(2)
        for call in ("", "/call1", "/call2")
    ]
    assert not [id_ for id_ in info.skipped if id_.kind is Kind.LOSS]
