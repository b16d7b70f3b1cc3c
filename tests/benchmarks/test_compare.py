"""The benchmarks run, on next to nothing; how fast they are is not looked at."""

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.paths import ROOT


@pytest.fixture
def bench_compare() -> ModuleType:
    pytest.importorskip("torch")
    path = ROOT / "tests" / "benchmarks" / "bench_compare.py"
    spec = importlib.util.spec_from_file_location("bench_compare", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_bench_compare_prints_a_row_for_every_case(
    bench_compare: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_compare.main(["--bytes", "20000", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("│ ").split("│") for line in lines if line.startswith("│")]
    assert len(rows) == 3 * 2
    assert {len(row) for row in rows} == {7}
    assert all(float(cell) >= 0 for row in rows for cell in row[2:])
    assert any("The machine reads" in line for line in lines)


def test_all_contenders_see_the_pairs_they_are_meant_to(
    bench_compare: ModuleType,
) -> None:
    pairs = bench_compare.make_pairs("float32", 1e-6, 100_000, num_pairs=20)
    assert len(pairs) == 20
    stats = list(bench_compare.JaxBackend().compare(pairs))
    assert all(0 < s.rel_err < 1e-5 for s in stats if s.count > 10)
    equal = bench_compare.make_pairs("bfloat16", 0.0, 100_000, num_pairs=20)
    assert not any(s.num_unequal for s in bench_compare.JaxBackend().compare(equal))
