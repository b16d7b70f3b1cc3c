"""A trace on disk runs the suite that ships with ttrace."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.factories.traces import Tensor, write_trace
from ttrace.store.reader import Trace, open_trace
from ttrace.testing import TraceSourceSuite

TENSORS = {
    "step0/a/param/weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step0/mb0/a/output/0": Tensor(full=np.arange(16.0), dims="s[tp]", scale=0.5),
    "step0/mb0/a/input/0": Tensor(full=np.arange(7), dims="s[tp:padded(4)]"),
    "step0/a/main_grad/weight": Tensor(full=np.ones((3, 4)), dims="o i partial[tp]"),
    "step0/mb0/loss/loss/0": np.array(2.5),
    "step0/mb0/empty/output/0": np.zeros((0, 3), np.int8),
}


@pytest.fixture(scope="class")
def written(request, tmp_path_factory) -> Iterator[None]:
    request.cls.path = tmp_path_factory.mktemp("traces") / "trace"
    skipped = {"step0/mb0/b/output/0": "no layout rule"}
    write_trace(request.cls.path, TENSORS, {"tp": 2}, skipped=skipped)
    yield


@pytest.mark.usefixtures("written")
class TestTraceOnDisk(TraceSourceSuite):
    path: ClassVar[Path]

    def source(self) -> Trace:
        return open_trace(self.path)

    def underlying(self) -> object:
        files = (path for path in self.path.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}
