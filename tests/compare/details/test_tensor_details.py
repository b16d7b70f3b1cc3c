"""Details of a tensor as JSON: both ways, nothing lost."""

import json
import math
from dataclasses import replace

from ttrace.compare.details.tensor_details import (
    ErrorMap,
    ErrorPlace,
    Profile,
    ShardBorders,
    TensorDetails,
    UlpHistogram,
)
from ttrace.report.model import Report
from ttrace.testing.report_samples import diverged_report, failed_tensor

DETAILS = TensorDetails(
    ulp_histogram=UlpHistogram(
        dtype="bfloat16", counts=(8, 1, 0, 2), num_not_comparable=1
    ),
    num_beyond=3,
    error_map=ErrorMap(
        dims=(0, 1),
        edges=((0, 1, 2, 3), (0, 2, 4)),
        errors=((0.0, 0.5), (math.inf, 0.0), (0.0, math.nan)),
    ),
    profiles=(
        Profile(dim=0, edges=(0, 1, 2, 3), errors=(0.25, math.inf, 0.0)),
        Profile(dim=1, edges=(0, 1, 2, 3, 4), errors=(0.0, 0.0, 0.5, math.inf)),
    ),
    borders=(ShardBorders(side="candidate", dim=1, positions=(1, 2)),),
    place=ErrorPlace(dim=1, ranges=((2, 3),), share=0.9, ranks=(1,)),
)


def round_trip(details: TensorDetails | None) -> TensorDetails | None:
    tensor = replace(failed_tensor("step0/mb0/a/output/0"), details=details)
    report = replace(diverged_report(), tensors=(tensor,))
    text = json.dumps(report.to_json(), allow_nan=False)
    return Report.from_json(json.loads(text)).tensors[0].details


def test_details_survive_json():
    # By their text, as NaN equals nothing.
    assert repr(round_trip(DETAILS)) == repr(DETAILS)


def test_details_of_one_number_survive_json():
    bare = TensorDetails(
        ulp_histogram=UlpHistogram(dtype="float32", counts=(0, 0, 1)), num_beyond=1
    )
    assert round_trip(bare) == bare
    assert "place" not in bare.to_json() and "error_map" not in bare.to_json()


def test_a_tensor_without_details_has_no_key():
    tensor = failed_tensor("step0/mb0/a/output/0")
    value = replace(diverged_report(), tensors=(tensor,)).to_json()["tensors"][0]
    assert "details" not in value
    assert round_trip(None) is None
