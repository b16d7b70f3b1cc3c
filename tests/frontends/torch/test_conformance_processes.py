"""The torch frontend runs the suite that ships with ttrace, on two processes."""

from collections.abc import Mapping
from typing import ClassVar

import pytest

from tests.factories.pooled_training import TORCH_CHECKSUMS, pooled_training
from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.kinds import Kind
from ttrace.testing import FrontendSuite, Training


@pytest.fixture(scope="class")
def workers(request, pools) -> None:
    request.cls.pools = pools


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
class TestTwoProcesses(FrontendSuite):
    """The example with parallelism by hand, its layouts told by dims texts."""

    layouts = ("one", "tensor", "data")
    not_recorded: ClassVar[Mapping[Kind, str]] = {
        Kind.BUFFER: "the model has none",
        Kind.UPDATED_BUFFER: "the model has none",
        Kind.CLIPPED_GRAD: "the example clips nothing",
    }
    max_file_bytes = 100_000
    pools: ClassVar[WorkerPools]

    def train(self, layout: str, environment: Mapping[str, str]) -> Training:
        parallelism = "data" if layout == "one" else layout
        return pooled_training(
            self.pools,
            1 if layout == "one" else 2,
            "ttrace.examples.torch_parallel.train",
            ("--parallelism", parallelism, "--patch", str(TORCH_CHECKSUMS)),
            environment,
        )
