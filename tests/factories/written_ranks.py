"""Records for a writer of one rank, and scripts that write in another process."""

import subprocess
import sys
import textwrap
import time

from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import RankInfo, ShardRecord, SkippedRecord

INFO = RankInfo(
    run_id="run",
    rank=0,
    world_size=1,
    recorded_ranks=(0,),
    framework="test",
    settings={"allow_tf32": False, "lr": float("inf")},
)


def tensor_id(module):
    return TensorId(step=0, module=module, kind=Kind.OUTPUT)


def record(module, array, sequence=0, **changes):
    values = {
        "id": tensor_id(module),
        "rank": 0,
        "sequence": sequence,
        "dtype": array.dtype.name,
        "layout": whole(array.shape, "mesh"),
    }
    return ShardRecord(**(values | changes))


def skipped(module, reason="no rule"):
    return SkippedRecord(id=tensor_id(module), rank=0, sequence=0, reason=reason)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def run_script(script, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
    )


SCRIPT_HEAD = """
    import sys
    import numpy as np
    from ttrace.ir.layout import whole
    from ttrace.ir.kinds import Kind
    from ttrace.ir.tensor_id import TensorId
    from ttrace.ir.trace import RankInfo, ShardRecord
    from ttrace.store.writer import TraceWriter

    info = RankInfo(
        run_id="run", rank=0, world_size=1, recorded_ranks=(0,), framework="test"
    )
    array = np.arange(1024, dtype=np.float32)

    def record(number):
        return ShardRecord(
            id=TensorId(step=0, module=f"m{number}", kind=Kind.OUTPUT),
            rank=0,
            sequence=number,
            dtype="float32",
            layout=whole((1024,), "mesh"),
        )

    writer = TraceWriter(sys.argv[1], info, segment_bytes=20000)
"""
