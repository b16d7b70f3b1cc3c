"""Buffers of which each data-parallel rank has values of its own."""

import torch

UNSYNCHRONIZED = (
    "taken for running statistics of this rank's own micro-batches, which no run on "
    "one process has; those of all ranks are compared where the module is a "
    "torch.nn.SyncBatchNorm, or no subclass of torch's own norms"
)


def is_unsynchronized(module: torch.nn.Module) -> bool:
    """Whether a module keeps statistics of the samples of its own rank alone."""
    # The common base of BatchNorm and InstanceNorm has no public name.
    keeps = isinstance(module, torch.nn.modules.batchnorm._NormBase)
    return keeps and not isinstance(module, torch.nn.SyncBatchNorm)
