"""The diagnosis of updates that are wrong while the gradients agree."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.pipeline import compare

RANDOM = np.random.default_rng(0)
VALUES = {
    f"layers.{number}": RANDOM.normal(size=(2, 16)).astype(np.float32)
    for number in range(20)
}


def run(num_layers, *, decay=0.0, rate=1.0):
    tensors = {}
    for layer, (start, update) in list(VALUES.items())[:num_layers]:
        tensors |= {
            f"step0/{layer}/param/weight": start,
            f"step0/{layer}/main_grad/weight": update,
            f"step0/{layer}/updated_param/weight": np.float32(1 - decay) * start
            + np.float32(0.01 * rate) * update,
        }
    return memory_trace(dict(sorted(tensors.items(), key=order)))


def order(tensor):
    return [kind in tensor[0] for kind in ("/updated_param", "/main_grad", "/param")]


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"decay": 0.01}, "16 tensors{} lost 0.01 times the parameter more"),
        ({"rate": 3}, "the updates of 16 parameters{} are 3 times the reference's"),
    ],
)
def test_it_says_that_not_all_that_failed_were_examined(options, start):
    (found,) = compare(run(16), run(16, **options)).diagnosis
    assert found.sentence.startswith(start.format(""))
    (found,) = compare(run(20), run(20, **options)).diagnosis
    examined = " (of 20 that failed in that step, 16 were examined)"
    assert found.sentence.startswith(start.format(examined))
