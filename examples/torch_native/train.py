"""Entry point: trains a small model with the parallelism that torch brings along.

``python -m ttrace.examples.torch_native.train`` runs on one process;
``torchrun --nproc-per-node 2 -m ttrace.examples.torch_native.train --dp fsdp2`` on two.
Without CUDA on CPU and gloo.

All that ttrace is told are the README's lines: which rank has what follows from DDP,
FSDP, DTensors and the pipeline's stages. ``examples/torch_parallel`` is the other half:
parallelism written by hand, whose layouts have to be described.
"""

import sys
from collections.abc import Sequence

from ttrace.errors import UsageError
from ttrace.examples.torch_native import loop
from ttrace.examples.torch_native.arguments import parse_arguments, require_consistent
from ttrace.examples.torch_native.place import find_place
from ttrace.examples.torch_parallel.process_group import default_process_group


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process, with another layout.

    A default process group that exists already is used and left alone. What a
    ``--patch`` changed stays changed.

    Args:
        argv: Options; those of the process if None.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    args = parse_arguments(argv)
    try:
        with default_process_group() as device:
            is_hybrid = args.dp == "hsdp"
            place = find_place(device, pp=args.pp, tp=args.tp, is_hybrid=is_hybrid)
            require_consistent(args, place)
            loop.run(args, place)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
