"""Steps of every sort, traced to disk, against the same steps untraced."""

import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from tests.factories.jax_linen_job import LinenJob, Mlp, mesh_of
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import IncompleteTraceError, LayoutError, UsageError
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

Recorder = Callable[..., RecordRequest]


@pytest.fixture
def recorded(monkeypatch, tmp_path) -> Iterator[Recorder]:
    """Switches recording on: what ``ttrace record`` tells the process."""

    def switch_on(name: str = "trace", **options: Any) -> RecordRequest:
        request = RecordRequest(out=tmp_path / name, **options)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        return request

    yield switch_on


def traced(step: Callable[..., Any], **options: Any) -> TracedStep:
    """The step, in a process that records."""
    result = jax_capture.trace(step, **options)
    assert isinstance(result, TracedStep)
    return result


def assert_same(first: Any, second: Any) -> None:
    """Equal bits, dtypes and shardings."""
    leaves = jax.tree.leaves(first), jax.tree.leaves(second)
    for one, other in zip(*leaves, strict=True):
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def assert_pass(reference: Trace, candidate: Trace) -> None:
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.first_divergence
    assert report.counts.passed > 20


def value_of(trace: Trace, id_: str) -> np.ndarray:
    """What the first rank that has a tensor holds of it."""
    return trace.load(trace.info.tensors[parse_tensor_id(id_)].shards[0])


def test_a_plain_run_gets_its_own_function_back(monkeypatch):
    monkeypatch.delenv("TTRACE_RECORD", raising=False)
    job = LinenJob()
    assert jax_capture.trace(job.step) is job.step


@pytest.mark.parametrize(("dp", "tp"), [(1, 1), (2, 4)])
def test_a_linen_step_computes_the_same_and_is_recorded(recorded, dp, tp):
    job = LinenJob(dp, tp)
    plain = job.run(job.step)
    request = recorded()
    with traced(job.step) as step:
        run = job.run(step)
    assert_same(run.results, plain.results)
    # Where donation finds no output that fits, an extra one may.
    assert any(plain.donated) and all(map(operator.ge, run.donated, plain.donated))
    trace = open_trace(request.out)
    ids = {str(id_) for id_ in trace.info.tensors}
    assert {
        "step0/layer/param/kernel",
        "step0/mb0/@root/input/0",
        "step0/mb0/layer/output/0/call1",
        "step0/mb0/layer/grad_input/0/call1",
        "step0/mb0/@root/loss",
        "step0/mb0/head/param_grad/bias",
        "step1/head/main_grad/kernel",
        "step1/@root/grad_norm",
        "step1/layer/optimizer_state/kernel.mu",
        "step1/layer/updated_param/kernel",
    } <= ids
    assert not any(id_.startswith("step1") and "/param/" in id_ for id_ in ids)
    assert {f"step{step}/@root/learning_rate/group0" for step in range(2)} <= ids
    assert not trace.info.skipped


def test_shardings_of_one_step_compare_equal(recorded):
    traces = []
    for name, sizes in {"whole": (1, 1), "sharded": (2, 4)}.items():
        job = LinenJob(*sizes)
        request = recorded(name)
        with traced(job.step) as step:
            job.run(step)
        traces.append(open_trace(request.out))
    assert_pass(*traces)
    (record,) = [
        record
        for id_, record in traces[1].info.tensors.items()
        if str(id_) == "step0/layer/main_grad/kernel"
    ]
    assert record.shards[0].layout.dims == "d0[tp] d1"
    assert record.shards[0].layout.local_shape == (2, 8)


def test_the_norm_is_that_of_all_gradients_once(recorded):
    job = LinenJob(2, 4)
    request = recorded(capture=CaptureFilter(kinds=frozenset({Kind.GRAD_NORM})))
    with traced(job.step) as step:
        job.run(step, 1)

    def loss(params):
        output = Mlp().apply({"params": params}, job.x)
        assert isinstance(output, jax.Array)
        return (output**2).mean()

    trace = open_trace(request.out)
    (record,) = trace.info.tensors.values()
    norm = trace.load(record.shards[0])
    expected = optax.tree.norm(jax.grad(loss)(job.state.params))
    np.testing.assert_allclose(norm, expected, rtol=1e-6)


class Net(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(8, 4, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(nnx.relu(self.first(x)))


def nnx_step(model, optimizer, x):
    def loss(model):
        return (model(x) ** 2).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def run_nnx(wrap: Callable[..., Any], step: Callable[..., Any]) -> list[Any]:
    model = Net()
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    wrapped = wrap(step)
    x = jax.random.normal(jax.random.key(1), (4, 8))
    losses = [wrapped(model, optimizer, x) for _ in range(2)]
    if isinstance(wrapped, TracedStep):
        wrapped.close()
    return [losses, nnx.state(model), nnx.state(optimizer)]


@pytest.mark.parametrize("is_jitted", [True, False])
def test_an_nnx_step_changes_its_objects_as_ever(recorded, is_jitted):
    step = nnx.jit(nnx_step) if is_jitted else nnx_step
    plain = run_nnx(lambda step: step, step)
    request = recorded()
    run = run_nnx(jax_capture.trace, step)
    assert_same(jax.tree.leaves(run), jax.tree.leaves(plain))
    ids = {str(id_) for id_ in open_trace(request.out).info.tensors}
    assert {
        "step0/first/param/kernel",
        "step0/mb0/first/grad_output/0",
        "step1/mb0/head/output/0",
        "step1/head/optimizer_state/kernel.nu",
        "step1/head/updated_param/bias",
    } <= ids


def accumulating_step(params, xs):
    """Gradients of micro-batches, summed in a scan."""

    def loss(params, x):
        hidden = jax_capture.tap("layer", x @ params["w"])
        return (hidden**2).mean()

    def add(total, x):
        return jax.tree.map(jnp.add, total, jax.grad(loss)(params, x)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, xs)[0]


def test_a_scan_over_microbatches_counts_them(recorded):
    params = {"w": jnp.eye(4)}
    xs = jnp.arange(24.0).reshape(3, 2, 4)
    request = recorded()
    with traced(jax.jit(accumulating_step), microbatches=3) as step:
        step(params, xs)
    trace = open_trace(request.out)
    for number in range(3):
        (record,) = [
            record
            for id_, record in trace.info.tensors.items()
            if str(id_) == f"step0/mb{number}/layer/output/0"
        ]
        np.testing.assert_array_equal(trace.load(record.shards[0]), xs[number])


@pytest.mark.parametrize("steps", [None, frozenset({1})])
def test_bfloat16_is_neutral_in_strict_mode(recorded, monkeypatch, steps):
    """Steps that are not recorded, and plain runs, are compiled strictly too."""
    job = LinenJob(dtype=jnp.bfloat16)
    plain = job.run(jax_capture.trace(job.step, strict=True))
    flagged = jax.jit(
        job.step,
        donate_argnums=0,
        static_argnames="power",
        compiler_options={"xla_allow_excess_precision": False},
    )
    assert_same(plain.results, job.run(flagged).results)
    request = recorded(capture=CaptureFilter(steps=steps))
    with traced(job.step, strict=True) as step:
        assert_same(job.run(step).results, plain.results)
    (first, *_) = open_trace(request.out).info.ranks
    assert first.settings["xla_allow_excess_precision"] is False


def test_noise_differs_by_seed_and_not_by_sharding(recorded):
    def run(name: str, sizes: tuple[int, int], noise_seed: int | None) -> Trace:
        job = LinenJob(*sizes)
        request = recorded(name, noise_seed=noise_seed)
        with traced(job.step) as step:
            job.run(step, 1)
        return open_trace(request.out)

    runs = [run(f"noise{seed}", (1, 1), seed) for seed in (None, 1, 2)]
    # Single numbers, such as losses, may coincide; whole tensors cannot.
    inputs = {value_of(each, "step0/mb0/@root/input/0").tobytes() for each in runs}
    grads = {value_of(each, "step0/layer/main_grad/kernel").tobytes() for each in runs}
    assert len(inputs) == len(grads) == 3
    assert_pass(runs[1], run("sharded", (2, 4), 1))


def test_another_matmul_precision_is_a_set_up_finding(recorded):
    """It explains errors of 1e-3: said first, and no verdict on the runs."""
    traces = []
    for name, precision in {"reference": None, "candidate": "tensorfloat32"}.items():
        recorded(name)
        job = LinenJob()
        with jax.default_matmul_precision(precision), traced(job.step) as step:
            job.run(step, 1)
        traces.append(open_trace(recorded(name).out))
    reference, candidate = traces
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict is Outcome.ERROR
    assert report.summary.startswith(
        "Set-up differs: float32_matmul_precision is highest in the reference and high "
        "in the candidate."
    )


def test_a_traced_step_has_what_the_step_has(recorded):
    recorded()
    with traced(jax.jit(lambda x: x + 1)) as step:
        assert "add" in step.lower(1.0).as_text()


def test_filtered_steps_run_untouched(recorded):
    job = LinenJob()
    request = recorded(capture=CaptureFilter(steps=frozenset({1})))
    with traced(job.step) as step:
        job.run(step, 3)
    steps = {id_.step for id_ in open_trace(request.out).info.tensors}
    assert steps == {1}


def test_steps_that_the_run_did_not_have(recorded):
    job = LinenJob()
    request = recorded(capture=CaptureFilter(steps=frozenset({9})))
    with traced(job.step) as step:
        job.run(step, 2)
    with pytest.raises(IncompleteTraceError) as caught:
        open_trace(request.out)
    said = "rank00000: the run had steps 0-1, and --steps asks for 9"
    assert str(caught.value.got).startswith(said)


@pytest.mark.parametrize("is_filtered", [False, True])
def test_a_function_that_also_runs_elsewhere_is_recorded(recorded, is_filtered):
    """Nothing that JAX keeps of the plain calls is found again in a recorded one."""

    @jax.jit
    def double(x):
        return jax_capture.tap("value", x * 2)

    double(1.0)
    request = recorded(
        capture=CaptureFilter(steps=frozenset({1, 2}) if is_filtered else None)
    )
    with traced(lambda x: double(x) + 1) as step:
        for value in (1.0, 2.0, 3.0):
            assert float(step(value)) == 2 * value + 1
            double(value)
    steps = {id_.step for id_ in open_trace(request.out).info.tensors}
    assert steps == ({1, 2} if is_filtered else {0, 1, 2})


def test_only_the_ranks_that_are_asked_for_record(recorded):
    job = LinenJob(2, 4)
    request = recorded(capture=CaptureFilter(ranks=frozenset({0, 5})))
    with traced(job.step) as step:
        job.run(step, 1)
    assert [rank.rank for rank in open_trace(request.out).info.ranks] == [0, 5]


def test_an_exception_leaves_the_trace_incomplete(recorded):
    job = LinenJob()
    request = recorded()
    with pytest.raises(ZeroDivisionError), traced(job.step) as step:
        job.run(step, 1)
        raise ZeroDivisionError("stop")
    trace = open_trace(request.out, allow_incomplete=True)
    assert "the run ended with ZeroDivisionError: stop" in str(trace.incomplete)


@pytest.mark.parametrize("error", [None, KeyError("later")])
def test_the_end_of_the_process_ends_the_trace(recorded, monkeypatch, error):
    job = LinenJob()
    request = recorded()
    step = traced(job.step)
    job.run(step, 1)
    if error is not None:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    step._at_exit()
    trace = open_trace(request.out, allow_incomplete=True)
    assert bool(trace.incomplete) is (error is not None)


def test_a_step_without_a_name_leaves_an_incomplete_trace(recorded):
    request = recorded()
    with traced(jax.jit(lambda x: x + 1)) as step:
        step(1.0)
    trace = open_trace(request.out, allow_incomplete=True)
    assert "nothing was recorded: no value of the step is named" in str(
        trace.incomplete
    )


def compiled_step() -> Any:
    return jax.jit(lambda x: x + 1).lower(1.0).compile()


@pytest.mark.parametrize(
    ("make_step", "options", "what"),
    [
        (compiled_step, {}, "compiled ahead of time cannot be traced"),
        (lambda: 3, {}, "the step is not a function"),
        (lambda: len, {"microbatches": 0}, "a number of microbatches that no step"),
        (lambda: len, {"max_iterations": 0}, "a number of max iterations that no"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_any_run(
    monkeypatch, make_step, options, what
):
    monkeypatch.delenv("TTRACE_RECORD", raising=False)
    with pytest.raises(UsageError, match=what):
        jax_capture.trace(make_step(), **options)


def test_a_second_traced_function_is_refused(recorded):
    recorded()
    with (
        traced(jax.jit(lambda x: jax_capture.tap("a", x))) as first,
        traced(jax.jit(lambda x: jax_capture.tap("b", x))) as second,
    ):
        first(1.0)
        with pytest.raises(UsageError, match="two traced functions") as caught:
            second(1.0)
        first(2.0)
    assert "trace one function that calls both" in str(caught.value)


def test_gradients_of_a_program_without_names_have_a_measured_noise(recorded):
    def step(params, x):
        grads = jax.grad(lambda p: jnp.sum(jnp.tanh(x @ p["w"]) ** 2))(params)
        updates, _ = optax.sgd(0.1).update(grads, optax.sgd(0.1).init(params))
        return optax.apply_updates(params, updates)

    x = jax.random.normal(jax.random.key(0), (8, 8))
    traces = {}
    for noise_seed in (None, 1):
        recorded(f"noise_seed{noise_seed}", noise_seed=noise_seed)
        with traced(jax.jit(step)) as recorded_step:
            recorded_step({"w": x.T}, x)
        traces[noise_seed] = open_trace(recorded(f"noise_seed{noise_seed}").out)

    def value(noise_seed: int | None, text: str) -> np.ndarray:
        return traces[noise_seed].load(
            traces[noise_seed].info.tensors[parse_tensor_id(text)].shards[0]
        )

    start, grad = "step0/@root/param/w", "step0/@root/main_grad/w"
    np.testing.assert_array_equal(value(None, start), value(1, start))
    assert (value(None, grad) != value(1, grad)).any()
    assert value(None, "step0/@root/grad_norm").dtype == np.float32


def test_dims_text_that_cannot_be_read_is_refused(monkeypatch):
    monkeypatch.delenv("TTRACE_RECORD", raising=False)
    with pytest.raises(LayoutError):
        jax_capture.trace(len, dims={"layer": "b[dp"})


def test_a_traced_step_inside_a_transformation_is_refused(recorded):
    recorded()
    step = jax_capture.trace(jax.jit(lambda x: x + 1))
    with pytest.raises(UsageError, match="inside a function that JAX is transforming"):
        jax.jit(step)(1.0)


def test_dims_text_makes_one_tensor_of_what_devices_hold(recorded):
    mesh = mesh_of(2, 2)
    x = jnp.arange(32.0).reshape(8, 4)

    def local(x):
        return jax_capture.tap("part", x * 2)

    step = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=PartitionSpec("dp", "tp"),
            out_specs=PartitionSpec("dp", "tp"),
        )
    )
    request = recorded()
    with traced(step, dims={"part": "b[dp] d[tp]"}) as recorded_step:
        recorded_step(x)
    trace = open_trace(request.out)
    (record,) = trace.info.tensors.values()
    assert record.global_shape == (8, 4)
    whole = np.zeros((8, 4), np.float32)
    for shard in record.shards:
        (block,) = shard.layout.blocks
        where = tuple(map(slice, block.region.start, block.region.stop))
        whole[where] = trace.load(shard)
    np.testing.assert_array_equal(whole, x * 2)


def test_a_recorded_step_is_traced_once_for_all_its_calls(recorded):
    traces = 0

    def step(x):
        nonlocal traces
        traces += 1
        return jax_capture.tap("value", x * 2)

    recorded()
    with traced(jax.jit(step)) as recorded_step:
        for value in (1.0, 2.0, 3.0):
            assert float(recorded_step(jnp.float32(value))) == 2 * value
    assert traces == 1
