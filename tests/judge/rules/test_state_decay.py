"""Weight decay that goes through momentum, or beside it."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
NAMES = ("a", "b")
PARAMS = {name: RNG.normal(size=12).astype(np.float32) for name in NAMES}
GRADS = {name: RNG.normal(size=12).astype(np.float32) for name in NAMES}
RATE, DECAY, MOMENTUM = 0.1, 0.01, 0.9


def sgd(*, is_coupled: bool, decay: float = DECAY, **settings: bool):
    """Two steps of it; updates are recorded before what the optimizer keeps."""
    tensors, params = {}, dict(PARAMS)
    kept = {name: np.zeros(12) for name in NAMES}
    for name in NAMES:
        tensors[f"step0/{name}/param/w"] = PARAMS[name]
    for step in (0, 1):
        states = {}
        for name in NAMES:
            given = GRADS[name] + (decay * params[name] if is_coupled else 0)
            kept[name] = MOMENTUM * kept[name] + given
            update = kept[name] + (0 if is_coupled else decay * params[name])
            params[name] = np.asarray(params[name] - RATE * update, PARAMS[name].dtype)
            tensors[f"step{step}/{name}/main_grad/w"] = GRADS[name]
            tensors[f"step{step}/{name}/updated_param/w"] = params[name].astype("f4")
            states[f"step{step}/{name}/optimizer_state/w.momentum_buffer"] = kept[name]
        tensors |= {text: value.astype("f4") for text, value in states.items()}
    stated = {f"optimizer.all.{name}": value for name, value in settings.items()}
    return memory_trace(tensors, settings=stated)


def compared(reference, candidate):
    return compare_traces(reference, candidate, load_backend("numpy"))


@pytest.mark.parametrize("coupled", ["reference", "candidate"])
def test_a_decay_outside_of_momentum_is_no_other_decay(coupled):
    inside = sgd(is_coupled=True, decoupled_weight_decay=False)
    beside = sgd(is_coupled=False, decoupled_weight_decay=True)
    pair = (inside, beside) if coupled == "reference" else (beside, inside)
    report = compared(*pair)
    other = "candidate" if coupled == "reference" else "reference"
    (found,) = report.diagnosis
    states = str(pair[0].info.ranks[0].settings["optimizer.all.decoupled_weight_decay"])
    assert found.code == "weight_decay_in_moments"
    assert found.sentence == (
        "2 tensors (optimizer_state) differ by 0.01 times the parameter in step 0 "
        f"while their gradients agree: the {coupled} adds more of a weight decay to "
        f"the gradient before its moments (L2) than the {other} (optimizer setting "
        f"decoupled_weight_decay: reference {states}, candidate "
        f"{coupled != 'candidate'}), on a/w.momentum_buffer, b/w.momentum_buffer. "
        "Decay by as much, and in the same place, in both: before the moments, or "
        "behind them (decoupled)"
    )
    assert report.first_divergence is not None
    first = report.first_divergence.id
    assert first == "step0/a/optimizer_state/w.momentum_buffer"


def test_another_decay_beside_momentum_is_told_as_that():
    report = compared(sgd(is_coupled=False), sgd(is_coupled=False, decay=0.03))
    assert report.diagnosis[0].code == "weight_decay"
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/a/updated_param/w"
