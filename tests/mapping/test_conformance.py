"""A trace in memory, and one seen through a map, run the suite that ships."""

from pathlib import Path

import numpy as np

from tests.factories.traces import MemoryTrace, Tensor, memory_trace
from ttrace.ir.trace_source import TraceSource
from ttrace.mapping.apply import map_traces
from ttrace.mapping.map_file import parse_map
from ttrace.testing import TraceSourceSuite

FULL = np.arange(48, dtype=np.float32).reshape(8, 6)
TEXT = """
[[tensor]]
reference = "a.{i}/{kind}/w"
candidate = "b/{kind}/w"
transform = "(i x) y -> y x"
sizes = { x = 4 }
"""


def plain() -> MemoryTrace:
    kinds = ("param", "main_grad", "updated_param")
    tensor = Tensor(full=FULL, dims="x[tp:zigzag] y")
    return memory_trace({f"step0/b/{kind}/w": tensor for kind in kinds}, {"tp": 2})


class TestTraceInMemory(TraceSourceSuite):
    trace = plain()

    def source(self) -> MemoryTrace:
        return self.trace

    def underlying(self) -> object:
        return {key: array.tobytes() for key, array in self.trace.arrays.items()}


class TestMappedTrace(TraceSourceSuite):
    """Each tensor of the trace below is two, transposed."""

    trace = plain()
    reference = memory_trace(
        {
            f"step0/a.{i}/{kind}/w": FULL[4 * i : 4 * i + 4].T
            for kind in ("param", "main_grad", "updated_param")
            for i in range(2)
        }
    )

    def source(self) -> TraceSource:
        return map_traces(parse_map(TEXT, Path("m.toml")), self.reference, self.trace)[
            1
        ]

    def underlying(self) -> object:
        return {key: array.tobytes() for key, array in self.trace.arrays.items()}
