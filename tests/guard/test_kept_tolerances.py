"""Which checks share the tolerances that a session kept."""

import pytest

from ttrace.guard.kept_tolerances import KeptTolerances
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.judge.tolerances.tolerance import TolerancePolicy, ToleranceTable


def kept(folder, reference: str | list[str] = "python train.py", **options):
    found = KeptTolerances.of_check(folder, reference, options)
    assert found is not None
    return found


def test_what_is_kept_is_found_again(tmp_path):
    folder = tmp_path / "not there yet"
    assert kept(folder).load() is None
    table = ToleranceTable(policy=TolerancePolicy(multiplier=7.0))
    table.save(tmp_path / "tolerance.json")
    kept(folder).keep(tmp_path / "tolerance.json")
    assert kept(folder, allow="x").load() == table
    kept(folder).keep(tmp_path / "not measured.json")
    assert kept(folder).load() == table
    kept(folder).path.write_text("{")
    assert kept(folder).load() is None, "a broken file is measured anew"


def test_what_changes_the_noise_has_a_file_of_its_own(tmp_path):
    checks = [
        kept(tmp_path),
        kept(tmp_path, ["python", "train.py"]),
        kept(tmp_path, draws=1),
        kept(tmp_path, multiplier=8.0),
        kept(tmp_path, map="map.toml"),
        kept(tmp_path, capture=CaptureFilter(steps=frozenset({0}))),
    ]
    assert len({each.path for each in checks}) == len(checks)


@pytest.mark.parametrize(
    "options",
    [{"draws": 0}, {"tolerance": "t.json"}, {"noise_traces": "n"}],
)
def test_without_noise_of_its_own_nothing_is_kept(tmp_path, options):
    assert KeptTolerances.of_check(tmp_path, "python train.py", options) is None
    assert KeptTolerances.of_check(tmp_path, None, {"reference_trace": "r"}) is None
