"""Training on worker processes that stay alive, for the suite for frontends."""

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from ttrace.examples.worker_pool import Outcome, WorkerPools
from ttrace.testing import Training

TORCH_CHECKSUMS = Path(__file__).with_name("torch_checksums.py")
"""A patch for the torch example: every rank prints its parameters' checksums."""

_BITS = "bits "
_LOSS = "step "


def pooled_training(
    pools: WorkerPools,
    world_size: int,
    script: str,
    options: Sequence[str],
    environment: Mapping[str, str],
) -> Training:
    """Runs an example on some ranks.

    Where files are cut short in this process, they are in the workers, too.

    Args:
        pools: Of long-lived workers.
        world_size: Number of ranks.
        script: Module of the example.
        options: Its arguments, with a patch that prints checksums.
        environment: For the processes.

    Returns:
        The lines with the losses, and all checksums of all ranks.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    outcomes = pools.of_size(world_size).run(
        script,
        options,
        environment=environment,
        timeout_s=120,
        max_file_bytes=None if limit == resource.RLIM_INFINITY else limit,
    )
    return _training(outcomes)


def _training(outcomes: Sequence[Outcome]) -> Training:
    parameters = {}
    for rank, outcome in enumerate(outcomes):
        if outcome.status != 0:
            raise RuntimeError(f"rank {rank}: {outcome.output}{outcome.error}")
        lines = [x for x in outcome.output.splitlines() if x.startswith(_BITS)]
        parameters |= {f"rank {rank}, {i}": line for i, line in enumerate(lines)}
    return Training(
        losses=[
            line
            for outcome in outcomes
            for line in outcome.output.splitlines()
            if line.startswith(_LOSS)
        ],
        parameters=parameters,
    )
