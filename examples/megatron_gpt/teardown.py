"""Lets go of the models of a run, in processes that go on to the next one."""

from collections.abc import Iterable

from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding


def release_models(chunks: Iterable[DistributedDataParallel]) -> None:
    """Breaks the circles that keep models alive where no garbage collector looks.

    A mixture-of-experts layer keeps its last routing, with the graph that made it; the
    graph keeps the hooks of data parallelism and of ttrace, and these the model. Rotary
    embeddings are kept by the cache of their own method. Every model that stays keeps
    its process groups, and each of these threads that wake up a hundred times a second.

    Args:
        chunks: Cannot be used any more.
    """
    for chunk in chunks:
        for module in list(chunk.modules()):
            vars(module).clear()
    RotaryEmbedding.forward.cache_clear()
