"""The benchmark of a device runs, on a CPU and next to nothing."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import bench_gpu


def test_bench_gpu_prints_a_row_for_every_dtype(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    bench_gpu.main(["--bytes", "20000", "--repeats", "1", "--json", str(out)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("│ ").split("│") for line in lines if line.startswith("│")]
    assert [row[0].strip() for row in rows] == list(bench_gpu.DTYPE_NAMES)
    figures = json.loads(out.read_text())
    assert figures["platform"] == "cpu" and figures["copy_gb_per_s"] > 0
    assert all(row["on_device"] > 0 for row in figures["compared_gb_per_s"])
