"""The benchmark runs; its timings are not looked at here."""

import importlib.util
import io
import sys
from types import ModuleType

import pytest
import rich.console

from tests.paths import ROOT

PATH = ROOT / "tests" / "benchmarks" / "bench_capture.py"


@pytest.fixture
def bench(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_capture", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_every_row_records_what_it_says(bench):
    size = bench.Size(
        num_layers=1, width=16, num_heads=2, length=8, batch=2, vocabulary=32
    )
    results = {result.name: result for result in bench.run(size, num_steps=1)}
    assert list(results) == [
        "no capture",
        *bench.GROUPS,
        "outputs only, to disk",
        "everything, to disk",
    ]
    assert results["no capture"].num_tensors == 0
    assert 0 < results["outputs only"].num_tensors < results["forward"].num_tensors
    assert results["everything"].num_bytes > results["forward"].num_bytes
    text = io.StringIO()
    rich.console.Console(file=text, width=100).print(
        bench.table(list(results.values()))
    )
    assert "everything, to disk" in text.getvalue()
