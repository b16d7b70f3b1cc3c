"""Tolerances: the arithmetic of the policy, and the file that holds the noise."""

import json
import math

import pytest

from ttrace.errors import (
    SchemaVersionError,
    StorageFullError,
    TraceError,
    TraceNotFoundError,
)
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import (
    Estimator,
    NoiseEstimate,
    TolerancePolicy,
    ToleranceTable,
)

ID = parse_tensor_id("step0/mb0/a/output/0")
OTHER = parse_tensor_id("step0/mb0/b/output/0")
EPSILON = 2.0**-23


def table(*draws, **policy):
    return ToleranceTable(
        policy=TolerancePolicy(**policy),
        noise={ID: NoiseEstimate(draws=draws, reference_norm=1.0)} if draws else {},
        reference_run="abc",
    )


def tolerance(of, tensor_id=ID, **changes):
    arguments = {
        "num_elements": 10**9,
        "reference_norm": 2.0,
        "storage_dtypes": ("float32", "float32"),
        "compute_epsilon": EPSILON,
        "depth": 0,
    }
    return of.tolerance_for(tensor_id, **{**arguments, **changes})


def test_largest_draw_times_the_multiplier():
    found = tolerance(table(0.01, 0.03, 0.02, multiplier=5.0))
    assert found.difference_norm == pytest.approx(0.15)
    assert found.estimator is Estimator.PERTURBED
    assert found.derivation == (
        "5 x the largest of 3 noise runs (0.03, rel 0.015): 0.15, rel 0.075"
    )
    assert found.relative_to(2.0) == pytest.approx(0.075)


def test_small_tensors_get_a_larger_multiplier():
    policy = {"multiplier": 5.0, "small_tensor_elements": 30.0}
    assert tolerance(table(1.0, **policy), num_elements=30).difference_norm == 10.0
    assert tolerance(table(1.0, **policy), num_elements=1).difference_norm == 155.0
    assert tolerance(table(1.0, **policy), num_elements=0).difference_norm == 155.0


def test_never_below_the_rounding_of_the_coarser_storage():
    found = tolerance(
        table(1e-12, floor_epsilons=1.0), storage_dtypes=("float32", "bfloat16")
    )
    assert found.difference_norm == pytest.approx(2.0**-7 * 2.0)
    assert found.estimator is Estimator.PERTURBED
    assert "epsilon of the storage dtype (0.00781)" in found.derivation


def test_the_floor_of_a_scalar_holds_several_roundings():
    policy = {"floor_epsilons": 1.0, "floor_small_tensor_elements": 3.0}
    found = tolerance(table(0.0, **policy), num_elements=1)
    assert found.difference_norm == 4 * EPSILON * 2.0
    assert "4 epsilon of the storage dtype" in found.derivation


def test_zero_noise_of_integers_tolerates_nothing():
    found = tolerance(table(0.0), storage_dtypes=("int64", "int64"))
    assert found.difference_norm == 0.0


def test_without_noise_dtype_and_depth_decide():
    shallow, deep = (tolerance(table(), depth=depth) for depth in (0, 99))
    assert shallow.estimator is Estimator.UNCALIBRATED
    assert shallow.difference_norm == pytest.approx(16 * EPSILON * 2.0)
    assert deep.difference_norm == pytest.approx(10 * shallow.difference_norm)
    assert "x sqrt of 100 modules" in deep.derivation


def test_without_noise_the_coarsest_dtype_on_the_way_counts():
    found = tolerance(table(), compute_epsilon=2.0**-7)
    assert found.difference_norm == pytest.approx(16 * 2.0**-7 * 2.0)


def test_noise_of_another_tensor_calibrates_nothing():
    assert tolerance(table(1.0), OTHER).estimator is Estimator.UNCALIBRATED


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool"])
def test_integers_must_be_equal(dtype):
    found = tolerance(table(), storage_dtypes=(dtype, dtype))
    assert (found.difference_norm, found.estimator) == (0.0, Estimator.EXACT)


def test_reference_of_norm_zero():
    """A zero reference has no rel_err; the noise still says how far off is fine."""
    noisy = tolerance(table(0.5, multiplier=2.0), reference_norm=0.0)
    assert noisy.difference_norm == pytest.approx(1.0)
    assert noisy.relative_to(0.0) == math.inf
    silent = tolerance(table(), reference_norm=0.0)
    assert silent.difference_norm == 0.0 and silent.relative_to(0.0) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "6", None])
def test_policy_refuses_what_would_let_everything_pass(value):
    with pytest.raises(ValueError, match="multiplier of the tolerance policy"):
        TolerancePolicy(multiplier=value)


@pytest.mark.parametrize("draws", [(), (math.nan,), (1.0, -1.0), (math.inf,)])
def test_noise_must_be_numbers(draws):
    with pytest.raises(ValueError, match="noise estimate"):
        NoiseEstimate(draws=draws, reference_norm=1.0)


def test_file_round_trip(tmp_path):
    path = tmp_path / "tolerance.json"
    written = table(0.1, 1e-300, 3.0, multiplier=7.5)
    written.save(path)
    assert ToleranceTable.load(path) == written
    table().save(path)
    assert ToleranceTable.load(path) == table()


def test_file_that_cannot_be_written(tmp_path):
    with pytest.raises(StorageFullError, match="cannot be written") as caught:
        table().save(tmp_path)
    assert "choose another place" in str(caught.value)


def saved(**changes):
    value = {
        "schema_version": 1,
        "policy": {},
        "reference_run": None,
        "noise": {str(ID): {"draws": [1.0], "reference_norm": 1.0}},
    }
    return json.dumps({**value, **changes})


def test_bad_files_start_from_a_good_one(tmp_path):
    path = tmp_path / "tolerance.json"
    path.write_text(saved())
    assert ToleranceTable.load(path).noise[ID].draws == (1.0,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty file"),
        ("[]", "JSON that is no object (list)"),
        ("{}", "JSON of another kind, with the keys (none)"),
        (saved(policy={}).replace("schema_version", "x"), "KeyError: 'schema_version'"),
        (saved(policy={"speed": 1}), "speed"),
        (saved(policy={"multiplier": math.nan}), "multiplier of the tolerance policy"),
        (saved(noise=[]), "AttributeError"),
        (saved(noise={"step0": {"draws": [1.0], "reference_norm": 1.0}}), "'step0'"),
        (saved(noise={str(ID): {"draws": []}}), "reference_norm"),
        (saved(noise={str(ID): {"draws": [], "reference_norm": 1}}), "without draws"),
        (saved(noise={str(ID): {"draws": ["1"], "reference_norm": 1}}), "'1'"),
        (saved(noise={str(ID): {"draws": [math.nan], "reference_norm": 1}}), "nan"),
    ],
)
def test_bad_files(tmp_path, text, says):
    path = tmp_path / "tolerance.json"
    path.write_text(text)
    with pytest.raises(TraceError, match="not a (whole )?tolerance file") as caught:
        ToleranceTable.load(path)
    message = str(caught.value)
    assert says in message and str(path) in message
    assert "make it again with 'ttrace tolerance'" in message


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "tolerance.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="UnicodeDecodeError"):
        ToleranceTable.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(TraceNotFoundError, match="no tolerance file here"):
        ToleranceTable.load(tmp_path / "none.json")


def test_file_of_another_version(tmp_path):
    path = tmp_path / "tolerance.json"
    path.write_text(saved(schema_version=99))
    with pytest.raises(SchemaVersionError) as caught:
        ToleranceTable.load(path)
    assert "schema version 1" in str(caught.value) and "99" in str(caught.value)
