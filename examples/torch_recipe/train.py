"""Entry point: trains a small model with the parallelism of torch itself.

``python -m ttrace.examples.torch_recipe.train`` runs on one process;
``torchrun --nproc-per-node 2 -m ttrace.examples.torch_recipe.train --layout fsdp2`` on
two. On CPU and gloo.
"""

import os
import sys
from collections.abc import Sequence

import torch.distributed as dist

from ttrace.errors import UsageError
from ttrace.examples.torch_parallel.process_group import default_process_group
from ttrace.examples.torch_recipe import loop
from ttrace.examples.torch_recipe.arguments import Layout, parse_arguments
from ttrace.examples.torch_recipe.place import Place


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process.

    What a ``--patch`` changed stays changed.

    Args:
        argv: Options; those of the process if None.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    args = parse_arguments(argv)
    try:
        with default_process_group():
            place = Place(
                layout=Layout(args.layout),
                rank=dist.get_rank(),
                size=dist.get_world_size(),
            )
            loop.run(args, place)
    except UsageError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
