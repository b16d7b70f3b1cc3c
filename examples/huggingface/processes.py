"""The processes of a run, and what Accelerate keeps of them between two runs."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import torch.distributed as dist
from accelerate import DistributedType
from accelerate.state import AcceleratorState, GradientState, PartialState

from ttrace.errors import UsageError


@contextlib.contextmanager
def own_accelerate_state() -> Iterator[int]:
    """Lets a process train several times: Accelerate's state is that of this run.

    A default process group that exists already is used and left alone.

    Yields:
        The number of processes.
    """
    was_initialized = dist.is_initialized()
    world_size = os.environ.get("WORLD_SIZE", "1")
    if was_initialized:  # not by torchrun, which sets this, too
        os.environ.setdefault("LOCAL_WORLD_SIZE", world_size)
    _forget()
    try:
        yield int(world_size)
    finally:
        _forget()
        if not was_initialized and dist.is_initialized():
            dist.destroy_process_group()


def run_training(
    train: Callable[[argparse.Namespace, int], None], args: argparse.Namespace
) -> int:
    """Trains once; may be called again in the same process.

    Args:
        train: Takes the options and the number of processes.
        args: Options.

    Returns:
        Exit status: 0, or 2 after a mistake of the user.
    """
    try:
        with own_accelerate_state() as world_size:
            train(args, world_size)
    except UsageError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def pass_for_gpus() -> None:
    """Makes Accelerate shard the model on CPUs, where it ignores FSDP without a word.

    Its processes pass for ones with a GPU each; the device stays the CPU. To be called
    once it knows its processes, and before an ``Accelerator`` is made.
    """
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _forget() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
