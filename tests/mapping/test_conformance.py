"""A trace in memory, and one seen through a map, run the suite that ships."""

import numpy as np

from tests.factories.traces import MemoryTrace, Tensor, memory_trace
from ttrace.testing import TraceSourceSuite

TENSORS = {
    "step0/a/param/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step0/mb0/a/output/0": Tensor(full=np.arange(16.0), dims="s[tp]"),
    "step0/a/main_grad/weight": Tensor(full=np.ones((4, 3)), dims="o[tp] i"),
}


class TestTraceInMemory(TraceSourceSuite):
    def source(self) -> MemoryTrace:
        return memory_trace(TENSORS, {"tp": 2})
