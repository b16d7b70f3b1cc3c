"""Buffers of which each data-parallel rank has values of its own."""

import torch

UNSYNCHRONIZED = (
    "each rank keeps running statistics of its own micro-batches, which no run on one "
    "process does; torch.nn.SyncBatchNorm keeps those of all ranks"
)


def is_unsynchronized(module: torch.nn.Module) -> bool:
    """Whether a module keeps statistics of the samples of its own rank alone."""
    # The common base of BatchNorm and InstanceNorm has no public name.
    keeps = isinstance(module, torch.nn.modules.batchnorm._NormBase)
    return keeps and not isinstance(module, torch.nn.SyncBatchNorm)
