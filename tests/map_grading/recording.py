"""Records one step of both runs of a pair, in this process."""

import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import torch

from tests.map_grading.pair import LibraryPair
from ttrace.frontends import jax_capture, torch_capture
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace
from ttrace.testing.training import in_environment

_RATE, _MOMENTUM = 0.1, 0.9


def record_reference(
    pair: LibraryPair, out: Path, noise_seed: int | None = None
) -> Trace:
    """The library's model, one step of SGD with momentum."""
    torch.manual_seed(0)
    model = pair.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM)
    batch = tuple(map(torch.from_numpy, pair.batch(np.random.default_rng(1))))
    asked = _asked(out, noise_seed)
    with in_environment(asked), torch_capture.trace(model, optimizer) as trace:
        loss = pair.loss(model, batch)
        trace.loss(loss)
        loss.backward()
        optimizer.step()
        trace.step()
    return open_trace(out)


def record_port(pair: LibraryPair, mistake: str, out: Path) -> Trace:
    """The port, with a mistake or without one if the name is empty."""
    torch.manual_seed(0)
    weights = {n: v.detach().numpy() for n, v in pair.model().state_dict().items()}
    port = pair.port(weights, mistake)
    optimizer = optax.sgd(_RATE, momentum=_MOMENTUM)

    def step(params, state, batch):
        loss, grads = jax.value_and_grad(port.loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.tree.map(jax.numpy.array, port.params)
    with in_environment(_asked(out, None)):
        traced = jax_capture.trace(jax.jit(step), scopes=port.scopes)
        with traced:  # pyright: ignore[reportGeneralTypeIssues]
            traced(params, optimizer.init(params), pair.batch(np.random.default_rng(1)))
    return open_trace(out)


def _asked(out: Path, noise_seed: int | None) -> dict[str, str]:
    """The variables that ask for a trace in an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    return RecordRequest(out=out, noise_seed=noise_seed).to_environment()
