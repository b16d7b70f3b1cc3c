import json

import pytest

from tests.benchmarks import bench_scaling as bench
from tests.benchmarks.svg_plot import growth_plot


def test_every_row_is_measured_and_plotted(tmp_path, capsys):
    path = tmp_path / "performance.json"
    path.write_text('{"schema_version": 1, "sections": {"another": {"figures": 1}}}')
    arguments = "--files 8 --tensors 12 --ranks 8 --shards 40 --more-ranks 16"
    bench.main(
        [*arguments.split(), "--elements", "5000", "--json", str(path)]
        + ["--figures", str(tmp_path / "figures")]
    )
    sections = json.loads(path.read_text())["sections"]
    assert sections["another"] == {"figures": 1}
    assert sections["scaling"]["conditions"]["processors"] >= 1
    rows = sections["scaling"]["figures"]["rows"]
    assert [(row["what"], row["count"], row["records"]) for row in rows] == [
        (bench.IN_A_FILE, 8, 16),
        (bench.IN_A_TRACE, 12, 24),
        (bench.ELEMENTS, 5000, 2),
        (bench.OF_RANKS, 8, 200 + 8 * 200),
        (bench.OF_SHARDS, 40, 10 + 4 * 10),
        (bench.OF_MORE_RANKS, 16, 4 + 16 * 4),
    ]
    assert all(row["cpu_s"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert "ranks with 200 tensors" in capsys.readouterr().out
    plots = {path.name: path.read_text() for path in (tmp_path / "figures").iterdir()}
    assert plots.keys() == {"tensors.svg", "ranks.svg"}
    assert plots["tensors.svg"].count("<circle") == 2
    assert plots["ranks.svg"].count("<circle") == 1


def test_figures_of_another_schema_are_not_overwritten(tmp_path):
    path = tmp_path / "performance.json"
    path.write_text('{"read_gb_per_s": {}}')
    with pytest.raises(ValueError, match=r"not of schema version 1"):
        bench.write_section(path, "scaling", {})
    assert path.read_text() == '{"read_gb_per_s": {}}'


def test_what_grows_as_its_axis_does_lies_on_the_dashed_line():
    text = growth_plot("t", "x", "y", {"a & b": [(100, 2.0), (1, 0.02), (10, 0.2)]})
    assert "a &amp; b" in text and text.count("<circle") == 3
    lines = text.splitlines()
    (dashed,) = (line for line in lines if "stroke-dasharray" in line)
    (drawn,) = (line for line in lines if line.startswith("<polyline"))
    first, *_, last = drawn.split('points="')[1].split('"')[0].split()
    ends = dashed.split('"')[1:8:2]
    assert [",".join(ends[:2]), ",".join(ends[2:])] == [first, last]


def test_a_plot_takes_positive_points_only():
    with pytest.raises(ValueError, match="positive points"):
        growth_plot("t", "x", "y", {"a": [(1, 0.0)]})
