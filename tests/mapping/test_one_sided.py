"""A module that one run lacks, under a map that knows it: a finding with its rule."""

import numpy as np
import pytest

from tests.factories.mapped_models import IGNORED, LOSS, compare, values
from ttrace.report.model import Outcome

MAP = """
[[tensor]]
reference = "h.{i}.fc/{kind}/weight"
candidate = "b{i}.fc/{kind}/kernel"
transform = "a b -> b a"

[[tensor]]
reference = "h.{i}.norm/{kind}/weight"
candidate = "b{i}.norm/{kind}/scale"

[[tensor]]
reference = "h.{i}.fc/{kind}/bias"
candidate = "b{i}.fc/{kind}/bias"
"""


def runs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    reference, candidate = {}, {}
    for i in range(2):
        weight = values(3, 4)
        reference[f"step0/h.{i}.fc/param/weight"] = weight
        candidate[f"step0/b{i}.fc/param/kernel"] = weight.T
        for own, other in (("norm/{}/weight", "norm/{}/scale"), ("fc/{0}/bias",) * 2):
            for kind in ("param", "updated_param"):
                array = values(4)
                reference[f"step0/h.{i}.{own.format(kind)}"] = array
                candidate[f"step0/b{i}.{other.format(kind)}"] = array
    return reference, candidate


@pytest.mark.parametrize(
    ("gone", "line", "name"),
    [("norm", 7, "norm/param/{}"), ("bias", 11, "fc/param/bias")],
)
@pytest.mark.parametrize("is_candidate", [False, True])
def test_a_module_that_is_gone_is_a_finding(gone, line, name, is_candidate):
    reference, candidate = runs()
    lacking = candidate if is_candidate else reference
    for key in [key for key in lacking if gone in key]:
        del lacking[key]
    report = compare(MAP, reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    assert report.counts.unmatched == 4 and report.counts.passed == 6
    own, other = name.format("weight"), name.format("scale")
    wanted = f"b1.{other}" if is_candidate else f"h.1.{own}"
    side = ("reference", "candidate") if is_candidate else ("candidate", "reference")
    (found,) = [t for t in report.tensors if t.id == f"step0/h.1.{own}"]
    assert found.reason == (
        f"only in the {side[0]}: map.toml:{line} pairs it with {wanted}, which the "
        f"{side[1]} does not have"
    )


def test_one_layer_that_is_gone():
    reference, candidate = runs()
    for key in [key for key in candidate if "b1.norm" in key]:
        del candidate[key]
    report = compare(MAP, reference, candidate)
    assert report.counts.unmatched == 2 and report.counts.passed == 8
    assert any("b1.norm/param/scale" in tensor.reason for tensor in report.tensors)


def test_a_missing_part_of_a_list():
    text = """
    [[tensor]]
    reference = "qkv/{kind}/w"
    candidate = ["q/{kind}/w", "k/{kind}/w", "v/{kind}/w"]
    transform = "(g part) d -> (g part) d"
    join = "part"
    """
    reference = {"step0/qkv/param/w": values(9, 4), "step0/o/param/w": LOSS}
    candidate = {f"step0/{name}/param/w": values(3, 4) for name in "qk"}
    candidate["step0/o/param/w"] = LOSS
    report = compare(text, reference, candidate)
    assert report.verdict is Outcome.DIVERGED
    reasons = {tensor.reason for tensor in report.tensors if tensor.status != "passed"}
    assert any(
        "map.toml:2 joins q/param/w and k/param/w and v/param/w; the candidate does "
        "not have v/param/w" in reason
        for reason in reasons
    ), reasons


def test_layers_stacked_in_one_run_only():
    text = """
    [[tensor]]
    reference = "h.{i}.fc/{kind}/weight"
    candidate = "layers.fc/{kind}/kernel"
    transform = "i a b -> b a"

    [[tensor]]
    reference = "out/{kind}/w"
    candidate = "head/{kind}/w"
    """
    reference = {f"step0/h.{i}.fc/param/weight": values(3, 4) for i in range(2)}
    reference["step0/out/param/w"] = LOSS
    candidate = {"step0/head/param/w": LOSS}
    report = compare(text, reference, candidate)
    assert report.counts.unmatched == 2 and report.counts.passed == 1
    assert any("layers.fc/param/kernel" in tensor.reason for tensor in report.tensors)
    made = {"step0/layers.fc/param/kernel": values(2, 4, 3)} | candidate
    report = compare(text, {"step0/out/param/w": LOSS}, made)
    assert report.counts.unmatched == 2 and report.counts.passed == 1


def test_what_is_ignored_may_be_gone():
    reference, candidate = runs()
    text = MAP + IGNORED.format(side="candidate", pattern="b*.drop/*")
    assert compare(text, reference, candidate).verdict is Outcome.PASS
