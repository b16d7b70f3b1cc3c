"""The benchmark of the main job runs, at a size that is none."""

import io
import json

import rich.console

from tests.benchmarks import bench_real_size as bench
from ttrace.examples.torch_native.arguments import parse_arguments
from ttrace.launch.defaults import NUM_NOISE_RUNS
from ttrace.store.reader import open_trace

TINY = "--model llama --train-iters 1 --micro-batch-size 1 --global-batch-size 2"


def test_a_training_is_timed_with_and_without_a_trace(tmp_path):
    parse_arguments(TINY.split())
    runs = bench.Bench(tmp_path, TINY.split())
    plain = runs.train("one process, not traced")
    traced = runs.train(
        "reference", trace="reference", options=bench.FILTERS["gradients and updates"]
    )
    assert plain.status == traced.status == 0
    assert plain.traced_s and traced.traced_s and traced.cpu_s > traced.traced_s / 10
    assert traced.wall_s > traced.traced_s and plain.num_bytes == 0
    assert traced.num_bytes > 10_000 and traced.peak_bytes > 100_000_000
    recorded = {id_.kind for id_ in open_trace(tmp_path / "reference").info.tensors}
    assert recorded == {"main_grad", "grad_norm", "updated_param"}
    report = tmp_path / "report.json"
    reference = runs.path("reference")
    row = runs.command("compare", "compare", reference, reference, "--json", report)
    assert row.traced_s is None and row.status == 0
    assert json.loads(report.read_text())["verdict"] == "pass"
    runs.drop(["reference"])
    assert not reference.exists()
    assert runs.stages == [plain, traced, row]


def test_ratios_are_to_the_training_on_as_many_processes():
    names = ("one process", "two processes", "reference", "candidate", "compare")
    seconds = (10.0, 4.0, 30.0, 16.0, None)
    stages = [
        bench.Stage(name=name, wall_s=40.0, cpu_s=50.0, traced_s=traced_s)
        for name, traced_s in zip(names, seconds, strict=True)
    ]
    text = io.StringIO()
    rich.console.Console(file=text, width=100).print(bench.table(stages))
    rows = {
        cells[1].strip(): cells[5].strip()
        for line in text.getvalue().splitlines()
        if len(cells := line.split("│")) == 9
    }
    assert [rows[name] for name in names] == ["1.0", "1.0", "3.0", "4.0", ""]


def test_there_are_as_many_noise_runs_as_check_makes():
    assert bench.NUM_NOISE_RUNS == NUM_NOISE_RUNS
