"""What the snippets and commands of a page may take for granted, page by page.

A Python snippet may use these names, and what the page defined before it; the page's
commands find these files in the folder in which they run. A fixture that its page does
not use fails the test.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.paths import ROOT

Names = dict[str, Any]


def torch_training() -> Names:
    """A model, its optimizer, its data and a loss."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = torch.nn.ModuleDict(
                {
                    "fc1": torch.nn.Linear(3, 4),
                    "act": torch.nn.GELU(),
                    "fc2": torch.nn.Linear(4, 3),
                }
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.mlp["act"](self.mlp["fc1"](x))
            return x + self.mlp["fc2"](hidden)

    torch.manual_seed(0)
    model = torch.nn.Sequential(Block(), torch.nn.Linear(3, 1))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": [torch.rand(2, 5, 3) for _ in range(4)],
        "loss_function": lambda output: output.square().mean(),
    }


def torch_page() -> Names:
    return torch_training() | {"dp_rank": 0, "tp_rank": 1, "rank": 0}


def megatron_loop() -> Names:
    import torch

    model = torch.nn.Linear(2, 2)
    return {
        "model_chunks": [model],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "num_steps": 2,
        "train_step": lambda *_: None,
    }


def jax_step() -> Names:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def train_step(params, x):
        loss, grads = jax.value_and_grad(lambda p: (x @ p["w"]).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    return {"train_step": train_step, "x": jnp.ones((4, 2))}


def readme() -> Names:
    """One name for a step of Megatron, called as the page does, and for one of JAX."""
    jitted = jax_step()["train_step"]

    def train_step(*args):
        return None if args == (...,) else jitted(*args)

    return megatron_loop() | {"train_step": train_step}


def starting_alike() -> Names:
    """A model in torch; a state of JAX, saved by Orbax, and where it shall lie."""
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    def make_state():
        return {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}

    mesh = jax.make_mesh((2,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("tp")
    place = jax.sharding.NamedSharding(mesh, split)
    path = Path.cwd() / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, make_state())
    return {
        "model": torch_training()["model"],
        "make_state": make_state,
        "shardings": jax.tree.map(lambda _: place, jax.eval_shape(make_state)),
        "path": path,
    }


def save_checkpoints(folder: Path) -> None:
    """A checkpoint, one that differs, one that a run started from, one of a port."""
    from safetensors.numpy import save_file

    from tests.factories.traces import write_trace

    rng = np.random.default_rng(0)
    weights = {
        f"layers.{layer}.weight": rng.random((6, 4), np.float32) for layer in range(2)
    }
    port = {
        f"h_{layer}.kernel": np.ascontiguousarray(weight.T)
        for layer, weight in enumerate(weights.values())
    }
    for name, tensors in {
        "converted": {key: value * 2 for key, value in weights.items()},
        "checkpoints/5": weights,
        "port/5": port,
    }.items():
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors")
    save_file(weights, folder / "original.safetensors")
    ids = {f"step0/{k.rpartition('.')[0]}/param/weight": v for k, v in weights.items()}
    write_trace(folder / "out" / "run", ids)


def record_two_runs(folder: Path) -> None:
    """Traces ``out/a`` and ``out/b``, which agree."""
    from tests.factories.traces import write_trace

    tensors = {
        "step0/mb0/linear/output/0": np.linspace(0, 1, 12, dtype=np.float32),
        "step0/linear/main_grad/weight": np.linspace(1, 2, 6, dtype=np.float32),
    }
    for name in ("a", "b"):
        write_trace(folder / "out" / name, tensors)


def record_a_pair(folder: Path) -> None:
    """Two runs that differ by a factor, a noise run, tolerances, and two ranks."""
    from tests.factories.traces import Tensor, write_trace
    from ttrace.pipeline import estimate_tolerance

    out = folder / "out"
    tensors = {
        "step0/linear/param/weight": np.linspace(1, 2, 6, dtype=np.float32),
        "step0/mb0/linear/output/0": np.linspace(1, 2, 64, dtype=np.float32),
        "step0/linear/main_grad/weight": np.linspace(1, 2, 6, dtype=np.float32),
    }
    names = [name for name in tensors if "/param/" not in name]
    noisy = {name: np.nextafter(tensors[name], np.float32(9)) for name in names}
    halved = {name: tensors[name] / 2 for name in names}
    write_trace(out / "reference", tensors)
    write_trace(out / "candidate", tensors | halved)
    write_trace(out / "noise-1", tensors | noisy, noise_seed=1)
    write_trace(
        out / "tp2",
        {name: Tensor(full=full) for name, full in tensors.items()},
        {"tp": 2},
    )
    table = estimate_tolerance(out / "reference", [out / "noise-1"], backend="numpy")
    table.save(out / "tolerance.json")


def save_the_script(folder: Path) -> None:
    """The quickstart's script, as a reader saves it."""
    shutil.copy(ROOT / "examples" / "torch_quickstart" / "train.py", folder)


@contextlib.contextmanager
def recorded_by(out: Path, *arguments: str, noise_seed: int | None = None) -> Iterator:
    """A script with these arguments, in this process, as ``ttrace record`` runs it."""
    from ttrace.recording.request import RecordRequest

    request = RecordRequest(out=out, noise_seed=noise_seed)
    with (
        mock.patch.dict(os.environ, request.to_environment()),
        mock.patch.object(sys, "argv", ["train.py", *arguments]),
    ):
        yield


def check_the_attention(folder: Path) -> None:
    """The report of the quickstart, without the processes and the run in isolation."""
    from ttrace.examples.torch_quickstart.train import main
    from ttrace.pipeline import compare, estimate_tolerance

    out = folder / "ttrace-check"
    with recorded_by(out / "reference"):
        main()
    with recorded_by(out / "candidate", "--chunked"):
        main()
    with recorded_by(out / "perturbed-1", noise_seed=1):
        main()
    runs = out / "reference", [out / "perturbed-1"]
    tolerance = estimate_tolerance(*runs)
    report = compare(runs[0], out / "candidate", tolerance=tolerance)
    report.save(out / "report.json")


NAMES: dict[str, Callable[[], Names]] = {
    "README.md": readme,
    "docs/torch.md": torch_page,
    "docs/megatron.md": megatron_loop,
    "docs/jax.md": jax_step,
    "docs/checkpoints.md": starting_alike,
}
"""Names that a page's snippets may use; made in the folder in which they run."""

FOLDERS: dict[str, Callable[[Path], None]] = {
    "docs/checkpoints.md": save_checkpoints,
    "docs/report.md": record_two_runs,
    "docs/python-api.md": record_a_pair,
    "docs/ci.md": record_a_pair,
    "docs/tutorials/first-bug.md": save_the_script,
    "docs/tutorials/read-a-report.md": check_the_attention,
}
"""Files that a page's commands find."""


def call_jax_step(names: Names) -> None:
    """Runs a step that a snippet has wrapped, and ends its trace."""
    import jax.numpy as jnp

    step = names["train_step"]
    step({"w": jnp.ones((2, 3))}, jnp.ones((4, 2)))
    step.close()


RECORDED: dict[str, Callable[[Names], None]] = {
    "torch_capture.trace(": lambda names: None,
    "jax_capture.trace(": call_jax_step,
}
"""Snippets with such a call also run as ``ttrace record`` would run them, then this."""
