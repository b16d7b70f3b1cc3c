"""Options that no value of a step takes up are named in a warning."""

import jax
import jax.numpy as jnp
import pytest
from absl import logging

from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.frontends.jax_parts.record.idle_options import idle_options
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.request import RecordRequest

ID = TensorId(step=0, microbatch=0, module="mlp", kind=Kind.OUTPUT, slot="0")
NO_MATCH = (
    "no value of the first recorded step matches 'mpl' of jax_capture.trace(dims=...); "
    "correct it, or leave it out"
)
NO_LOOP = (
    "jax_capture.trace(microbatches=4), but no value of the first recorded step was "
    "called 4 times, or a multiple of that; give the number of iterations of the loop "
    "that accumulates gradients"
)


@pytest.mark.parametrize(
    ("patterns", "microbatches", "num_calls", "right"),
    [
        ((), 1, {"a": 1}, ()),
        (("mlp", "*"), 1, {"a": 1}, ()),
        (("mlp", "mpl"), 1, {"a": 3}, (NO_MATCH,)),
        ((), 4, {"a": 2, "b": 3}, (NO_LOOP,)),
        ((), 4, {"a": 1, "b": 8}, ()),
        ((), 4, {}, ()),  # nothing is of a micro-batch
        (("mpl",), 4, {"a": 1}, (NO_MATCH, NO_LOOP)),
    ],
)
def test_what_has_no_effect(patterns, microbatches, num_calls, right):
    dims = DeclaredDims.parse(dict.fromkeys(patterns, "..."))
    assert idle_options(dims, microbatches, [ID], num_calls) == right


@pytest.mark.parametrize(
    ("options", "capture", "right"),
    [
        ({"dims": {"mpl": "b h"}, "microbatches": 4}, {}, [NO_MATCH, NO_LOOP]),
        ({"dims": {"mlp": "b h"}, "microbatches": 2}, {}, []),
        ({"dims": {"mpl": "b h"}}, {"modules": ("mlp",)}, []),
    ],
)
def test_the_first_recorded_step_warns(
    monkeypatch, tmp_path, caplog, options, capture, right
):
    request = RecordRequest(out=tmp_path / "trace", capture=CaptureFilter(**capture))
    for variable, value in request.to_environment().items():
        monkeypatch.setenv(variable, value)

    def layer(x, _):
        return jax_capture.tap("mlp", x * 2), None

    step = jax_capture.trace(
        jax.jit(lambda x: jax.lax.scan(layer, x, None, length=2)[0]), **options
    )
    assert isinstance(step, TracedStep)
    with caplog.at_level("WARNING", logger=logging.get_absl_logger().name), step:
        for _ in range(2):
            step(jnp.ones((2, 3)))
    messages = [record.getMessage() for record in caplog.records]
    found = [m.removeprefix("ttrace: ") for m in messages if "first recorded" in m]
    assert found == right
