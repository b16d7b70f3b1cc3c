import json

from tests.benchmarks import bench_scaling


def test_every_row_is_measured(tmp_path, capsys):
    path = tmp_path / "rows.json"
    bench_scaling.main(
        ["--tensors", "12", "--files", "8", "--ranks", "8", "--json", str(path)]
    )
    rows = json.loads(path.read_text())
    assert [(row["count"], row["records"]) for row in rows] == [
        (8, 16),
        (12, 24),
        (8, 200 + 8 * 200),
    ]
    assert all(row["cpu_s"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert "ranks with 200 tensors" in capsys.readouterr().out
