"""Entry point: trains a small GPT in plain torch, on one process or under torchrun.

``python -m ttrace.examples.torch_parallel.train`` runs on one process;
``torchrun --nproc-per-node 2 -m ttrace.examples.torch_parallel.train --parallelism
ring`` on two. Without CUDA on CPU and gloo.

The parallelism is written by hand, so that its layouts have to be described. Of what
torch brings along (DDP, FSDP, DTensors, pipelines) ``examples/torch_native`` shows that
nothing has to be.
"""

import os
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ttrace.errors import UsageError
from ttrace.examples.torch_parallel import loop
from ttrace.examples.torch_parallel.arguments import (
    parse_arguments,
    require_divisible,
)
from ttrace.examples.torch_parallel.data import TokenSource
from ttrace.examples.torch_parallel.place import Parallelism, Place
from ttrace.examples.torch_parallel.process_group import default_process_group


def main(argv: Sequence[str] | None = None) -> int:
    """Trains once; may be called again in the same process, with other sizes.

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
            place = Place(
                parallelism=Parallelism(args.parallelism),
                rank=dist.get_rank(),
                size=dist.get_world_size(),
                device=device,
            )
            require_divisible(args, place)
            torch.manual_seed(args.seed)
            loop.run(args, place, _token_source(args, place))
    except UsageError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _token_source(args, place: Place) -> TokenSource:
    per_microbatch = args.micro_batch_size * place.data_size
    return TokenSource(
        vocab_size=args.vocab_size,
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size,
        num_microbatches=args.global_batch_size // per_microbatch,
        uneven_lengths=args.uneven_lengths,
        seed=args.seed,
        place=place,
    )


if __name__ == "__main__":
    sys.exit(main())
