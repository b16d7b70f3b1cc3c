"""The benchmark runs; its timings are not looked at here."""

import io

import rich.console

from tests.benchmarks import bench_jax_capture as bench


def test_every_row_hands_out_what_it_says():
    job = bench.make_job("2x4", num_layers=1, length=8, batch_size=2, width=32)
    results = {result.name: result for result in bench.run(job, num_steps=1)}
    assert results["no capture"].num_tensors == 0
    assert results["nothing wanted"].num_tensors == 0
    parts = ("forward", "gradients of activations", "parameters")
    assert all(results[part].num_tensors > 0 for part in parts)
    everything = results["everything"]
    assert everything.num_tensors == sum(results[part].num_tensors for part in parts)
    assert results["everything, to the host"].num_bytes == everything.num_bytes
    text = io.StringIO()
    rich.console.Console(file=text, width=100).print(
        bench.table(list(results.values()), "mesh 2x4")
    )
    assert "everything, to the host" in text.getvalue()
