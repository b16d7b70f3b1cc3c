"""The benchmarks run, on next to nothing; how fast they are is not looked at."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import bench_compare
from tests.benchmarks.bench_pairs import make_pairs


def test_bench_compare_prints_a_row_for_every_case(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"
    bench_compare.main(
        ["--bytes", "20000", "--file-bytes", "20000", "--repeats", "1"]
        + ["--json", str(out)]
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("│ ").split("│") for line in lines if line.startswith("│")]
    assert [len(row) for row in rows] == [9] * 3 * 2 + [5] * 2 * 3
    assert all(float(cell) >= 0 for row in rows for cell in row[2:])
    assert any("The machine reads" in line for line in lines)
    figures = json.loads(out.read_text())["sections"]["compare"]["figures"]
    assert len(figures["in_memory_gb_per_s"]) == 6
    for costs in figures["whole_process"].values():
        assert costs.keys() == {"ttrace compare", "ttrace compare, jax", "numpy loop"}
        assert all(cost["peak_bytes"] > 1 << 20 for cost in costs.values())


def test_all_contenders_see_the_pairs_they_are_meant_to() -> None:
    pairs = make_pairs("float32", 1e-6, 100_000, num_pairs=20)
    assert len(pairs) == 20
    stats = list(bench_compare.JaxBackend().compare(pairs))
    assert all(0 < s.rel_err < 1e-5 for s in stats if s.count > 10)
    equal = make_pairs("bfloat16", 0.0, 100_000, num_pairs=20)
    assert not any(s.num_unequal for s in bench_compare.JaxBackend().compare(equal))
