"""What capture costs in JAX: a jitted step as it is, and handing out what is tapped.

Run ``python -m tests.benchmarks.bench_jax_capture``. The model is the example's port of
GPT-2 to linen, on one device and on a mesh of parts of the CPU; the figure is the
median step. Nothing is written; "to the host" copies what would be.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import rich.console
from flax.training.train_state import TrainState

from tests.benchmarks.steps_table import Result, table
from ttrace.examples.jax_port import linen_steps
from ttrace.examples.jax_port.arguments import parse_jax_arguments
from ttrace.examples.jax_port.devices import provide_devices
from ttrace.examples.jax_port.training import LinenTraining, build_training
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.step_trace import StepTrace
from ttrace.frontends.jax_parts.record.shards import HostShards
from ttrace.frontends.jax_parts.taps.step_taps import step_taps
from ttrace.ir.kinds import Kind

FORWARD = frozenset({Kind.INPUT, Kind.OUTPUT, Kind.LOSS})
GRADIENTS = frozenset({Kind.GRAD_INPUT, Kind.GRAD_OUTPUT})
PARAMETERS = frozenset(Kind) - FORWARD - GRADIENTS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A model, its optimizer and a batch, laid out on devices.

    Attributes:
        state: After a first step.
        step: One step.
        batch: Of every step.
    """

    state: TrainState
    step: linen_steps.Step
    batch: dict[str, jax.Array]


def make_job(
    mesh: str, *, num_layers: int, length: int, batch_size: int, width: int = 256
) -> Job:
    """A GPT-2 on generated tokens, its batch and its features cut over a mesh."""
    options = {
        "--mesh": mesh,
        "--num-layers": num_layers,
        "--hidden-size": width,
        "--vocab-size": 8 * width,
        "--seq-length": length,
        "--global-batch-size": batch_size,
    }
    training = build_training(
        parse_jax_arguments([str(word) for item in options.items() for word in item])
    )
    assert isinstance(training, LinenTraining)
    batch = training.batch(0)
    training.step(batch)  # from now on the types of the state stay as they are
    return Job(state=training.state, step=training.train_step, batch=batch)


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
    programs = StepTrace(wants=lambda site, kind: kind in (kinds or ()))
    state, seconds, sizes = jax.tree.map(jnp.copy, job.state), [], []
    for number in range(1 + num_steps):
        start = time.perf_counter()
        if kinds is None:
            state, loss = job.step(state, job.batch)
        else:
            with step_taps([]), programs.running(number) as running:
                state, loss = job.step(state, job.batch)
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


def run(job: Job, num_steps: int) -> list[Result]:
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
    return [measure(name, job, num_steps, **options) for name, options in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--mesh", nargs="+", default=["1x1", "2x4"])
    arguments = parser.parse_args()
    provide_devices(8)
    for mesh in arguments.mesh:
        job = make_job(
            mesh,
            num_layers=arguments.layers,
            length=arguments.length,
            batch_size=arguments.batch,
        )
        title = f"JAX capture, mesh {mesh}"
        rich.console.Console().print(table(run(job, arguments.steps), title))


if __name__ == "__main__":
    main()
