"""Gradients under FSDP2 that torch's own function clips."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import clip_grad_norm_

from ttrace.frontends import torch_capture
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_they_and_their_norm_are_recorded(monkeypatch, tmp_path, limit):
    request = RecordRequest(out=tmp_path / "trace")
    for variable, value in request.to_environment().items():
        monkeypatch.setenv(variable, value)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch_capture.trace(model, optimizer) as trace:
        model(torch.ones(4, 3)).sum().backward()
        clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        trace.step()
    values = arrays(open_trace(request.out))
    norm = values["step0/@root/grad_norm"]
    factor = min(1.0, limit / norm)
    for slot in ("weight", "bias"):
        before, after = (
            values[f"step0/@root/{kind}/{slot}"]
            for kind in ("main_grad", "clipped_grad")
        )
        assert after == pytest.approx(before * factor, rel=1e-4)


def arrays(trace: Trace) -> dict:
    return {
        str(id_): trace.load(record.shards[0])
        for id_, record in trace.info.tensors.items()
    }
