"""The Megatron frontend runs the suite that ships, on real processes."""

from collections.abc import Mapping
from typing import ClassVar

import pytest

pytest.importorskip("megatron.core")

from tests.factories.pooled_training import pooled_training  # noqa: E402
from ttrace.examples.layout_matrix.observer import CHECKSUMS  # noqa: E402
from ttrace.examples.worker_pool import WorkerPools  # noqa: E402
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId  # noqa: E402
from ttrace.testing import FrontendSuite, Training  # noqa: E402

GPT = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --global-batch-size 4 --micro-batch-size 1 --train-iters 2"
)
LAYOUTS = {
    "one": (1, ""),
    "tp2 sp": (2, "--tensor-model-parallel-size 2 --sequence-parallel"),
    "dp2 zero": (2, "--use-distributed-optimizer"),
    "pp2": (2, "--pipeline-model-parallel-size 2"),
}


@pytest.fixture(scope="class")
def workers(request, pools) -> None:
    request.cls.pools = pools


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
class TestMegatron(FrontendSuite):
    layouts = tuple(LAYOUTS)
    not_recorded: ClassVar[Mapping[Kind, str]] = {
        Kind.BUFFER: "the model has none",
        Kind.UPDATED_BUFFER: "the model has none",
        Kind.CLIPPED_GRAD: "Megatron clips inside of its optimizer's step",
    }
    max_file_bytes = 100_000
    pools: ClassVar[WorkerPools]

    def train(self, layout: str, environment: Mapping[str, str]) -> Training:
        world_size, options = LAYOUTS[layout]
        return pooled_training(
            self.pools,
            world_size,
            "ttrace.examples.megatron_gpt.train",
            (*GPT.split(), *options.split(), "--patch", str(CHECKSUMS)),
            environment,
        )

    def is_compared(self, tensor_id: TensorId) -> bool:
        # Adam's first step turns a gradient of 1e-9 into a whole step of either sign.
        return tensor_id.step == 0 and tensor_id.kind is not Kind.UPDATED_PARAM
