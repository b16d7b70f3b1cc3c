"""Traces and checkpoints behind addresses: on a real S3 server, and in memory."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.registry import _registry as loaded
from safetensors.numpy import save_file

from tests.store.test_reader import FULL, rank_info, record, write_two_ranks
from ttrace import pipeline
from ttrace.checkpoints.opening import open_trace_or_checkpoint
from ttrace.errors import (
    CorruptTraceError,
    IncompleteTraceError,
    MissingExtraError,
    TraceError,
    TraceNotFoundError,
)
from ttrace.ir.layout import whole
from ttrace.store import remote
from ttrace.store.reader import open_trace
from ttrace.store.remote import is_address
from ttrace.store.writer import TraceWriter

BUCKET = "bucket"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A local S3 server; its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty bucket, reached as a user's environment says."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir(BUCKET)
    yield files
    files.rm(BUCKET, recursive=True)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


@pytest.fixture
def trace(tmp_path) -> Path:
    """Two ranks, each with a tensor."""
    write_two_ranks(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/run", True),
        ("gs://bucket/run", True),
        ("https://host/run", True),
        ("out/reference", False),
        ("C:/run", False),
        (Path("out"), False),
    ],
)
def test_addresses(path, expected):
    assert is_address(path) is expected


def test_a_trace_and_a_checkpoint_on_s3(bucket, trace, tmp_path):
    bucket.put(str(trace), f"{BUCKET}/runs/run", recursive=True)
    save_file({"w": FULL}, tmp_path / "model.safetensors")
    bucket.put(str(tmp_path / "model.safetensors"), f"{BUCKET}/model.safetensors")
    found = pipeline.open_trace(f"s3://{BUCKET}/runs/run")
    assert found.name == f"s3://{BUCKET}/runs/run"
    local = open_trace(trace)
    assert found.info == local.info
    for tensor in found.info.tensors.values():
        for shard in tensor.shards:
            np.testing.assert_array_equal(found.load(shard), local.load(shard))
    report = pipeline.compare(found, f"s3://{BUCKET}/runs/run", backend="numpy")
    assert report.verdict == "pass"
    checkpoint = open_trace_or_checkpoint(f"s3://{BUCKET}/model.safetensors")
    (weight,) = checkpoint.info.tensors.values()
    np.testing.assert_array_equal(checkpoint.load(weight.shards[0]), FULL)
    assert checkpoint.name == f"s3://{BUCKET}/model.safetensors"


def test_only_what_is_read_is_fetched(memory, tmp_path, monkeypatch):
    """Segments have their length from the beginning, and their content part by part."""
    monkeypatch.setattr(remote, "PART_BYTES", 4096)
    arrays = {f"m{n}": np.full((64, 64), n, np.float32) for n in range(8)}
    with TraceWriter(tmp_path / "run", rank_info(0, 1)) as writer:
        for sequence, (module, array) in enumerate(arrays.items()):
            layout = whole(array.shape, "mesh")
            writer.add(record(module, 0, layout, sequence), array)
    memory.put(str(tmp_path / "run"), "/run", recursive=True)
    asked = []
    original = type(memory).cat_file
    monkeypatch.setattr(
        type(memory),
        "cat_file",
        lambda self, path, start, end: (
            asked.append((path, end - start)) or original(self, path, start, end)
        ),
    )
    found = open_trace("memory://run")
    assert not [path for path, _ in asked if path.endswith(".safetensors")]
    tensor = next(t for t in found.info.tensors.values() if t.id.module == "m5")
    np.testing.assert_array_equal(found.load(tensor.shards[0]), arrays["m5"])
    found.load(tensor.shards[0])
    sizes = [size for path, size in asked if path.endswith(".safetensors")]
    assert len(sizes) <= 6 and sum(sizes) <= 6 * 4096  # 4 of the tensor, 8 are 32


def test_the_copy_is_removed_with_the_trace(memory, trace):
    memory.put(str(trace), "/run", recursive=True)
    found = open_trace("memory://run")
    folder = found.path
    assert folder.is_dir()
    del found
    assert not folder.exists()


def test_nothing_there(memory):
    with pytest.raises(TraceNotFoundError, match="there is no trace here") as caught:
        open_trace("memory://run")
    assert caught.value.where == "memory://run"
    assert "credentials" in caught.value.remedy


def test_a_trace_that_is_incomplete(memory, trace):
    memory.put(str(trace), "/run", recursive=True)
    memory.rm("/run/rank00001", recursive=True)
    with pytest.raises(IncompleteTraceError) as caught:
        open_trace("memory://run")
    assert caught.value.where == "memory://run"
    assert open_trace("memory://run", allow_incomplete=True).incomplete


def test_bytes_that_are_not_those_that_were_written(memory, trace):
    memory.put(str(trace), "/run", recursive=True)
    (segment, *_) = memory.glob("/run/rank00000/*.safetensors")
    content = memory.cat_file(segment)
    memory.pipe_file(segment, content[:-4] + b"abcd")
    found = open_trace("memory://run")
    tensor = next(iter(found.info.tensors.values()))
    with pytest.raises(CorruptTraceError, match="the bytes of a tensor are not"):
        found.load(tensor.shards[0])


def test_a_file_that_is_gone_or_shorter_when_it_is_read(memory, trace):
    memory.put(str(trace), "/run", recursive=True)
    found = open_trace("memory://run")
    tensor = next(iter(found.info.tensors.values()))
    (segment, *_) = memory.glob("/run/rank00000/*.safetensors")
    content = memory.cat_file(segment)
    memory.pipe_file(segment, content[:-4])
    with pytest.raises(TraceError, match="has become shorter"):
        found.load(tensor.shards[0])
    memory.rm(segment)
    with pytest.raises(TraceError, match="behind an address cannot be read") as caught:
        found.load(tensor.shards[0])
    assert "FileNotFoundError" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "address", "package"),
    [
        ("fsspec.core", "https://host/run", "fsspec"),
        ("s3fs", "s3://bucket/run", "s3fs"),
    ],
)
def test_a_package_that_is_not_installed(monkeypatch, module, address, package):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(loaded, "s3", raising=False)
    with pytest.raises(MissingExtraError, match=f"needs {package}, which is not"):
        open_trace(address)


def test_an_address_that_no_library_knows():
    with pytest.raises(TraceError, match="of a kind that fsspec does not know"):
        open_trace("nowhere://bucket/run")
