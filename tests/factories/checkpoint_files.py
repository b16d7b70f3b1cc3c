"""Small checkpoints for tests, and what a trace of one holds."""

import numpy as np

from ttrace.ir.trace_source import TraceSource

WEIGHTS = {
    "layers.0.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),
    "layers.0.bias": np.linspace(0, 1, 6, dtype=np.float32),
    "layers.1.weight": np.linspace(2, 3, 12, dtype=np.float32).reshape(2, 6),
}
"""Of a model, by the names that torch gives them."""


def held_arrays(trace: TraceSource) -> dict[str, np.ndarray]:
    """Every tensor put together from its parts, by text of its id."""
    arrays = {}
    for record in trace.info.tensors.values():
        (dtype,) = {shard.dtype for shard in record.shards}
        full = None
        for shard in record.shards:
            local = trace.load(shard)
            assert not local.flags.writeable
            if full is None:
                full = np.zeros(record.global_shape, local.dtype)
            (block,) = shard.layout.blocks
            full[tuple(map(slice, block.region.start, block.region.stop))] = local
        assert full is not None and full.dtype.name == dtype
        arrays[str(record.id)] = full
    return arrays


def check_weights(
    trace: TraceSource, expected: dict[str, np.ndarray] = WEIGHTS
) -> None:
    """The parameters are these, bit for bit, and nothing else is held."""
    held = held_arrays(trace)
    names = {key: key.rpartition(".") for key in expected}
    ids = {f"step0/{m or '@root'}/param/{slot}": k for k, (m, _, slot) in names.items()}
    assert held.keys() == ids.keys()
    for id_, key in ids.items():
        np.testing.assert_array_equal(held[id_], expected[key], strict=True)
