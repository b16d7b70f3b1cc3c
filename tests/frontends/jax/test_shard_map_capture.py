"""Data parallel steps inside one ``shard_map``, recorded, against one device."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.ir.kinds import Kind
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

OPTIMIZER = optax.adam(1e-2)
STATE_KINDS = (Kind.PARAM, Kind.UPDATED_PARAM, Kind.OPTIMIZER_STATE)


def loss_function(params, x):
    with jax.named_scope("fc1"):
        h = jnp.tanh(x @ params["fc1"]["weight"] + params["fc1"]["bias"])
    with jax.named_scope("fc2"):
        y = h @ params["fc2"]["weight"]
    return jnp.mean(y**2)


def update(params, state, gradients):
    updates, state = OPTIMIZER.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def plain_step(params, state, x):
    loss, gradients = jax.value_and_grad(loss_function)(params, x)
    return *update(params, state, gradients), loss


def data_parallel_step(num_devices: int, *, check_vma: bool, reduces: bool = True):
    """The whole step inside a ``shard_map``, as people write it."""

    def step(params, state, x):
        if check_vma:
            loss, gradients = jax.value_and_grad(
                lambda params, x: jax.lax.pmean(loss_function(params, x), "dp")
            )(params, x)
        else:
            loss, gradients = jax.value_and_grad(loss_function)(params, x)
            loss = jax.lax.pmean(loss, "dp")
            if reduces:
                gradients = jax.lax.pmean(gradients, "dp")
        return *update(params, state, gradients), loss

    mesh = jax.make_mesh(
        (num_devices,),
        ("dp",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )
    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P(), P("dp")),
        out_specs=P(),
        check_vma=check_vma,
    )


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Records one step to a trace of a name."""

    def record(name: str, step: Any, **options: Any) -> Trace:
        request = RecordRequest(out=tmp_path / name)
        for variable, value in request.to_environment().items():
            monkeypatch.setenv(variable, value)
        keys = jax.random.split(jax.random.key(0), 3)
        params = {
            "fc1": {
                "weight": jax.random.normal(keys[0], (8, 16)),
                "bias": jnp.zeros(16),
            },
            "fc2": {"weight": jax.random.normal(keys[1], (16, 4))},
        }
        x = jax.random.normal(keys[2], (8, 8))
        traced = jax_capture.trace(jax.jit(step), scopes=True, **options)
        assert isinstance(traced, TracedStep)
        with traced:
            traced(params, OPTIMIZER.init(params), x)
        return open_trace(request.out)

    return record


def statuses(reference: Trace, candidate: Trace) -> dict[Kind, set[str]]:
    report = compare_traces(reference, candidate, NumpyBackend())
    found: dict[Kind, set[str]] = {}
    for tensor in report.tensors:
        found.setdefault(Kind(tensor.kind), set()).add(str(tensor.status))
    return found


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_state_is_laid_out_as_the_specs_say(recorded, check_vma):
    reference = recorded("reference", plain_step)
    candidate = recorded("dp", data_parallel_step(4, check_vma=check_vma))
    found = statuses(reference, candidate)
    assert {kind: found[kind] for kind in STATE_KINDS} == {
        kind: {"passed"} for kind in STATE_KINDS
    }
    for record in candidate.info.tensors.values():
        if record.id.kind in STATE_KINDS:
            assert len(record.shards) == 4, record.id  # all copies, to be compared
            assert "dp" not in record.shards[0].layout.dims


def test_shapes_and_values_tell_what_the_specs_do_not(recorded):
    """But for activation gradients of the mean of a device's own samples."""
    reference = recorded("reference", plain_step)
    candidate = recorded("dp", data_parallel_step(4, check_vma=False))
    report = compare_traces(reference, candidate, NumpyBackend())
    assert report.verdict is Outcome.PASS and not report.setup.tensors
    found: dict[Kind, set[str]] = {}
    for tensor in report.tensors:
        found.setdefault(Kind(tensor.kind), set()).add(str(tensor.status))
    for kind in (Kind.OUTPUT, Kind.MAIN_GRAD, Kind.GRAD_NORM, *STATE_KINDS):
        assert found[kind] == {"passed"}, kind
    # The mean over the devices that the body takes of them says what they are.
    assert found[Kind.PARAM_GRAD] == found[Kind.LOSS] == {"passed"}
    (loss,) = (i for i in candidate.info.tensors.values() if i.id.kind is Kind.LOSS)
    assert {shard.scale for shard in loss.shards} == {4}
    assert loss.shards[0].layout.partial_axes == ("dp",)
    (gradient,) = (
        t.reason for t in report.tensors if t.id == "step0/mb0/fc1/grad_output/0"
    )
    assert gradient.startswith(
        "candidate: its values are 4 times those of the other run, as gradients are of "
        "a mean over the samples of one rank"
    )


def test_dims_text_lays_out_the_rest(recorded):
    """Gradients of activations of a local mean are those of a local batch."""
    reference = recorded("reference", plain_step)
    candidate = recorded(
        "dp",
        data_parallel_step(4, check_vma=False),
        dims={"*": "b[dp] ...", "*/main_grad/*": "..."},
    )
    found = statuses(reference, candidate)
    for kind in (Kind.OUTPUT, Kind.MAIN_GRAD, Kind.GRAD_NORM, *STATE_KINDS):
        assert found[kind] == {"passed"}, kind
    assert found[Kind.PARAM_GRAD] == {"passed"}  # a pattern of modules leaves it alone


def test_one_device_in_a_shard_map_is_like_one_without(recorded):
    reference = recorded("reference", plain_step)
    candidate = recorded("one", data_parallel_step(1, check_vma=False))
    found = statuses(reference, candidate)
    assert {kind for kind in found if found[kind] != {"passed"}} == set()
    assert {Kind.OUTPUT, Kind.MAIN_GRAD, Kind.GRAD_NORM} < found.keys()


def test_copies_that_the_specs_promise_are_compared(recorded):
    """Without types, JAX believes a spec that says that values are equal."""
    reference = recorded("reference", plain_step)
    step = data_parallel_step(4, check_vma=False, reduces=False)
    candidate = recorded("dp", step)
    report = compare_traces(reference, candidate, NumpyBackend())
    reasons = {t.id: t.reason for t in report.tensors if t.status == "failed"}
    reason = reasons["step0/fc1/updated_param/weight"]
    assert "replicas differ in the candidate" in reason
    assert not any("/param/" in id_ for id_ in reasons)
