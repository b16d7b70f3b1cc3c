"""The default process group of a run of plain torch."""

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist


@contextlib.contextmanager
def default_process_group() -> Iterator[torch.device]:
    """The group that exists, torchrun's, or one of one process.

    Yields:
        The device of this process.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield device
        return
    backend = "gloo" if device.type == "cpu" else "nccl"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:  # started without torchrun: nobody to meet, so no port is needed
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield device
    finally:
        dist.destroy_process_group()
