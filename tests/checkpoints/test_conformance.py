"""A checkpoint as a trace runs the suite that ships with ttrace."""

from pathlib import Path

import numpy as np

from ttrace.checkpoints.checkpoint_trace import (
    Checkpoint,
    CheckpointTrace,
    Entry,
    StoredBlock,
    whole_block,
)
from ttrace.testing import TraceSourceSuite

FULL = np.arange(24, dtype=np.float32).reshape(4, 6)
BIAS = np.ones(3, np.float32)


class TestCheckpointTrace(TraceSourceSuite):
    """Three tensors, one of them in two parts, and one that cannot be read."""

    def source(self) -> CheckpointTrace:
        halves = tuple(
            StoredBlock(
                start=(r, 0), extent=(2, 6), read=lambda r=r: FULL[r : r + 2].copy()
            )
            for r in (0, 2)
        )
        paths = {"w": (4, 6), "b": (3,), "c": (3,)}
        bias = (whole_block((3,), lambda: BIAS),)
        entries = [
            Entry(
                path=("params", "fc", name),
                shape=shape,
                dtype="float32",
                blocks=halves if name == "w" else bias,
            )
            for name, shape in paths.items()
        ]
        entries.append(
            Entry(path=("opt_state", "mu", "fc", "w"), problem="of a newer version")
        )
        return CheckpointTrace(
            Checkpoint(path=Path("ckpt"), format="test", entries=entries, versions={})
        )

    def underlying(self) -> object:
        return FULL.tobytes(), BIAS.tobytes()
