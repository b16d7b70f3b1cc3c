"""Training on worker processes that stay alive, for the suite for frontends."""

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.paths import ROOT
from ttrace.examples.worker_pool import Outcome, WorkerPool, WorkerPools
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

    Where files are cut short in this process, new workers are started, which inherit
    that. Those of the pools could not go on: the file that they meet through would be
    cut short as well.

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
    if limit == resource.RLIM_INFINITY:
        pool = pools.of_size(world_size)
        outcomes = pool.run(script, options, environment=environment, timeout_s=120)
    else:
        with WorkerPool(world_size, environment={"PYTHONPATH": str(ROOT)}) as pool:
            outcomes = pool.run(script, options, environment=environment, timeout_s=120)
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
