"""Entry point of the port: trains the same model in flax, on a mesh of devices.

``python -m ttrace.examples.jax_port.jax_train --model llama --flavor nnx --mesh 2x4``

On a machine without so many devices, the host's CPU is divided into them.
"""

import argparse
import sys
from collections.abc import Sequence

from ttrace.errors import TtraceError
from ttrace.examples.jax_port.arguments import parse_jax_arguments, require_divisible
from ttrace.examples.jax_port.devices import provide_devices
from ttrace.examples.patches import Patch


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process.

    What a ``--patch`` changed stays changed.

    Args:
        argv: Options; those of the process if None.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    try:
        run(parse_jax_arguments(argv))
    except TtraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Builds the model and trains it; a patch may change it before.

    Raises:
        TtraceError: The options, the devices, a map or a patch cannot be used.
    """
    require_divisible(args, args.mesh)
    provide_devices(args.mesh.size)
    # Only now: the modules of the ports make no array, but import what could.
    import jax

    from ttrace.examples.jax_port.dims import shard_map_dims
    from ttrace.examples.jax_port.training import build_training
    from ttrace.frontends import jax_capture

    patch = Patch(args.patch)
    patch.call("before_build", args)
    training = build_training(args)
    patch.call("after_build", args, [training])
    step = jax_capture.trace(
        training.train_step,
        microbatches=args.num_microbatches,
        dims=shard_map_dims(training.place, training.parameters()),
    )
    training.train_step = step
    for number in range(args.train_iters):
        loss = training.step(training.batch(number))
        print(f"step {number} loss {float(loss):.7f}")
    if isinstance(step, jax_capture.TracedStep):
        # Now: the process may train again, and has no use for this run's programs.
        step.close()
        jax.clear_caches()


if __name__ == "__main__":
    sys.exit(main())
