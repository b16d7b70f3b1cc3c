"""Entry point: trains a small GPT on megatron-core, on one process or under torchrun.

``python -m ttrace.examples.megatron_gpt.train`` runs on one process;
``torchrun --nproc-per-node 2 -m ttrace.examples.megatron_gpt.train
--tensor-model-parallel-size 2 --sequence-parallel`` on two.
"""

import os
import sys
from collections.abc import Sequence

import torch

from ttrace.errors import UsageError
from ttrace.examples.megatron_gpt import cpu_devices, warnings_of_megatron
from ttrace.examples.megatron_gpt.arguments import parse_arguments


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
    prepare()
    from ttrace.examples.megatron_gpt import loop

    try:
        loop.run(args)
    except UsageError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare() -> None:
    """Imports Megatron, for which the devices must be in place."""
    warnings_of_megatron.quiet()
    if not torch.cuda.is_available():
        cpu_devices.install()
    import ttrace.examples.megatron_gpt.loop  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
