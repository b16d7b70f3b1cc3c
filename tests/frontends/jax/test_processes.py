"""A step on the devices of two processes; each writes what its devices hold."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.factories.jax_processes import run_processes
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_generate import generate_array
from ttrace.generate import Uniform
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.isolation.isolating import IsolationRequest, isolate
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

RUN_ID = "of two processes"


def loss(params, x):
    hidden = jax_capture.tap("hidden", jnp.tanh(x @ params["first"]))
    hidden = jax_capture.tap("head/input/0", hidden)
    return (jax_capture.tap("head", hidden @ params["second"]) ** 2).mean()


def step(params, x):
    grads = jax.grad(loss)(params, x)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def record_steps(out: str, rewrite: str = "", dp: str = "4", tp: str = "2") -> None:
    """Trains for two steps and records them; the same in one process and in several."""
    mesh = jax.make_mesh(
        (int(dp), int(tp)), ("dp", "tp"), axis_types=(AxisType.Auto,) * 2
    )

    def made(name: str, *spec: str | None) -> jax.Array:
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return generate_array(name, Uniform(), (8, 8), sharding)

    params = {"first": made("first", None, "tp"), "second": made("second", "tp")}
    x = made("x", "dp")
    # What 'ttrace record' puts into the environment of each process.
    request = RecordRequest(
        out=Path(out), run_id=RUN_ID, rewrite=Path(rewrite) if rewrite else None
    )
    os.environ.update(request.to_environment())
    traced = jax_capture.trace(jax.jit(step))
    assert isinstance(traced, TracedStep)
    with traced:
        for _ in range(2):
            params = traced(params, x)


def test_two_processes_write_one_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("TTRACE_RECORD", "")  # is put back, whatever record_steps does
    run_processes(__name__, record_steps.__name__, tmp_path / "two")
    record_steps(str(tmp_path / "one"))
    two, one = open_trace(tmp_path / "two"), open_trace(tmp_path / "one")
    assert [rank.rank for rank in two.info.ranks] == list(range(8))
    assert two.info.tensors.keys() == one.info.tensors.keys()
    report = compare_traces(one, two, NumpyBackend())
    assert report.verdict is Outcome.PASS, report.first_divergence
    assert report.counts.unmatched == 0
    layouts = {
        str(id_): record.shards[5].layout.dims
        for id_, record in two.info.tensors.items()
    }
    assert layouts["step0/mb0/@root/param_grad/first"] == "d0 d1[tp]"
    assert layouts["step1/mb0/hidden/output/0"] == "d0[dp] d1[tp]"

    def rerun(values: Path, capture: CaptureFilter) -> Trace:
        run_processes(__name__, record_steps.__name__, tmp_path / "again", values)
        return open_trace(tmp_path / "again")

    values = tmp_path / "values"
    request = IsolationRequest(reference=one, candidate=two, rerun=rerun, folder=values)
    isolation = isolate(request, NumpyBackend(), step=1)
    assert isolation.obstacle == "" and isolation.isolated == ()
    assert isolation.num_overwritten == 3
