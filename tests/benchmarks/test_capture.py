"""The benchmark runs; its timings are not looked at here."""

import io

import rich.console

from tests.benchmarks import bench_capture as bench


def test_every_row_records_what_it_says():
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
    on_disk = results["everything, to disk"]
    assert on_disk.disk_bytes > 0 and on_disk.raw_write_s > 0
    assert "CPU" in text.getvalue()
