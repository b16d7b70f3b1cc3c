"""What capture costs in JAX: a jitted step as it is, and handing out what is tapped.

Run ``python tests/benchmarks/bench_jax_capture.py``. The model is the example's port of
GPT-2 to linen, on one device; the figure is the median step. Nothing is written; "to
the host" copies what would be.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
import rich.console
import rich.table
from flax.training.train_state import TrainState

from ttrace.examples.jax_port import linen_steps
from ttrace.examples.jax_port.config import Architecture, ModelConfig
from ttrace.examples.jax_port.data import BatchSource
from ttrace.examples.jax_port.linen_gpt2 import Gpt2
from ttrace.examples.jax_port.parallel import Parallel
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.step_trace import StepTrace
from ttrace.frontends.jax_parts.record.shards import HostShards
from ttrace.frontends.jax_parts.taps.step_taps import step_taps
from ttrace.ir.tensor_id import Kind

FORWARD = frozenset({Kind.INPUT, Kind.OUTPUT, Kind.LOSS})
GRADIENTS = frozenset({Kind.GRAD_INPUT, Kind.GRAD_OUTPUT})
PARAMETERS = frozenset(Kind) - FORWARD - GRADIENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table.

    Attributes:
        name: What was handed out, and where to.
        step_s: Median seconds of a step.
        num_tensors: Captures of one step.
        num_bytes: Bytes of the captures of one step.
    """

    name: str
    step_s: float
    num_tensors: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A model, its optimizer and a batch.

    Attributes:
        state: Before the first step.
        batch: Of every step.
    """

    state: TrainState
    batch: dict[str, jax.Array]


def make_job(*, num_layers: int, length: int, batch_size: int) -> Job:
    """A GPT-2 of width 256 on generated tokens."""
    config = ModelConfig(
        architecture=Architecture.GPT2,
        num_layers=num_layers,
        hidden_size=256,
        num_heads=8,
        num_kv_heads=8,
        mlp_size=1024,
        vocab_size=2048,
        seq_length=length,
        norm_epsilon=1e-5,
    )
    model = Gpt2(config, Parallel())
    source = BatchSource(
        vocab_size=config.vocab_size, seq_length=length, batch_size=batch_size
    )
    batch = jax.device_put(source.batch(0))
    key = jax.random.key(0)
    params = jax.jit(model.init)(key, batch["tokens"], batch["mask"], key)["params"]
    return Job(
        state=TrainState.create(
            apply_fn=model.apply, params=params, tx=optax.adamw(1e-3)
        ),
        batch=batch,
    )


def measure(
    name: str,
    job: Job,
    num_steps: int,
    *,
    kinds: frozenset[Kind] | None = None,
    to_host: bool = False,
) -> Result:
    """Times training steps, after one that compiles.

    Args:
        name: Of the row.
        job: What is trained, always from its beginning.
        num_steps: Steps that are timed.
        kinds: What leaves the program; None for the step as it is.
        to_host: Copy the captures.
    """
    jax.clear_caches()
    programs = StepTrace(wants=lambda site, kind: kind in (kinds or ()))
    state, seconds, sizes = jax.tree.map(jnp.copy, job.state), [], []
    for number in range(1 + num_steps):
        start = time.perf_counter()
        if kinds is None:
            state, loss = linen_steps.train_step(state, job.batch)
        else:
            with step_taps([]), programs.running(number) as running:
                state, loss = linen_steps.train_step(state, job.batch)
            sizes = _taken(running.captures(), to_host)
        jax.block_until_ready((state, loss))
        seconds.append(time.perf_counter() - start)
    return Result(
        name=name,
        step_s=statistics.median(seconds[1:]),
        num_tensors=len(sizes),
        num_bytes=sum(sizes),
    )


def _taken(captures: list[Capture], to_host: bool) -> list[int]:
    """Bytes of each capture; waits for them."""
    parts = [capture.value for capture in captures if capture.value is not None]
    jax.block_until_ready([part.array for part in parts])
    if to_host:
        shards = HostShards()
        for part in parts:
            shards.of(part)
    return [part.array.nbytes for part in parts]


def run(make: Callable[[], Job], num_steps: int) -> list[Result]:
    """All rows; the first one is the step without capture."""
    rows: dict[str, dict[str, Any]] = {
        "no capture": {},
        "nothing wanted": {"kinds": frozenset()},
        "forward": {"kinds": FORWARD},
        "gradients of activations": {"kinds": GRADIENTS},
        "parameters": {"kinds": PARAMETERS},
        "everything": {"kinds": frozenset(Kind)},
        "everything, to the host": {"kinds": frozenset(Kind), "to_host": True},
    }
    job = make()
    return [measure(name, job, num_steps, **options) for name, options in rows.items()]


def table(results: list[Result]) -> rich.table.Table:
    """The rows with their ratio to the first one."""
    shown = rich.table.Table("handed out", "step", "ratio", "tensors", "MB")
    for result in results:
        shown.add_row(
            result.name,
            f"{result.step_s * 1e3:.0f} ms",
            f"{result.step_s / results[0].step_s:.2f}",
            str(result.num_tensors or ""),
            f"{result.num_bytes / 1e6:.0f}" if result.num_bytes else "",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    def make() -> Job:
        return make_job(
            num_layers=arguments.layers,
            length=arguments.length,
            batch_size=arguments.batch,
        )

    rich.console.Console().print(table(run(make, arguments.steps)))


if __name__ == "__main__":
    main()
