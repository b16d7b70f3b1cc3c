import itertools

import pytest
import torch
from torch import nn

from ttrace.errors import LayoutError
from ttrace.frontends.torch_dims_description import DimsDescription, DimsRules
from ttrace.frontends.torch_parts.description import (
    NoLayout,
    RecordedElsewhere,
)
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import Mesh, ShardLayout
from ttrace.recording.faults import reason_of

WHOLE: DimsRules = {"*": "..."}
MESH = Mesh(name="ranks", sizes={"dp": 3, "tp": 2}, coords={"dp": 1, "tp": 1})


def described(
    activations: DimsRules = WHOLE, parameters: DimsRules = WHOLE, **options
) -> DimsDescription:
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 4)))
    return DimsDescription(
        model, MESH, activations=activations, parameters=parameters, **options
    )


def activation(description: DimsDescription, path: str, kind: Kind, *shape: int):
    return description.activation_layout(path, nn.Identity(), kind, "0", shape)


def lowered(text: str, shape: tuple[int, ...]) -> ShardLayout:
    return parse_dims(text).lower_local(shape, MESH)


def test_a_pattern_without_slash_is_that_of_a_module_in_all_kinds():
    description = described({"1.*": "b f[tp]", "*": "b f"})
    for kind in (Kind.INPUT, Kind.OUTPUT, Kind.GRAD_INPUT, Kind.GRAD_OUTPUT):
        layout = activation(description, "1.0", kind, 2, 3)
        assert layout == lowered("b f[tp]", (2, 3))
        assert isinstance(layout, ShardLayout) and layout.global_shape == (2, 6)
        assert activation(description, "1", kind, 2, 3) == lowered("b f", (2, 3))


def test_a_pattern_with_slash_says_kind_and_slot_and_the_first_match_counts():
    description = described({"1.*/*input/*": "b f[tp]", "1.0": "b[tp] f", "*": "b f"})
    for path, kind, text in (
        ("1.0", Kind.INPUT, "b f[tp]"),
        ("1.0", Kind.GRAD_INPUT, "b f[tp]"),
        ("1.0", Kind.OUTPUT, "b[tp] f"),
        ("0", Kind.INPUT, "b f"),
    ):
        assert activation(description, path, kind, 2, 3) == lowered(text, (2, 3))


def test_a_gradient_without_a_rule_of_its_own_lies_as_its_tensor():
    description = described(
        {
            "1.0/grad_input/*": "b[tp] f",
            "1.*/output/*": "b f[tp]",
            "1.*/input/*": "b f[dp]",
            "1.1/output/1": NoLayout(reason="not now"),
            "0/output/*": "b f[dp] partial[tp]",
            "*": "b f",
        }
    )
    for path, kind, text in (
        ("1.0", Kind.GRAD_OUTPUT, "b f[tp]"),
        ("1.0", Kind.GRAD_INPUT, "b[tp] f"),
        ("1.1", Kind.GRAD_INPUT, "b f[dp]"),
        ("0", Kind.OUTPUT, "b f[dp] partial[tp]"),
        ("0", Kind.GRAD_OUTPUT, "b f[dp]"),  # that of each partial
        ("0", Kind.GRAD_INPUT, "b f"),
    ):
        assert activation(description, path, kind, 2, 3) == lowered(text, (2, 3))


def test_a_rule_for_tensors_and_gradients_alike_is_not_the_gradients_own():
    description = described({"1.*/output/*": "b f[tp]", "*/*/*": "b f"})
    layout = activation(description, "1.0", Kind.GRAD_OUTPUT, 2, 3)
    assert layout == lowered("b f[tp]", (2, 3))
    description = described({"*/grad_output/*": "b[tp] f", "1.*/output/*": "b f[tp]"})
    layout = activation(description, "1.0", Kind.GRAD_OUTPUT, 2, 3)
    assert layout == lowered("b[tp] f", (2, 3))


@pytest.mark.parametrize(
    "kind",
    [
        Kind.PARAM_GRAD,
        Kind.MAIN_GRAD,
        Kind.CLIPPED_GRAD,
        Kind.OPTIMIZER_STATE,
        Kind.UPDATED_PARAM,
    ],
)
def test_what_there_is_of_a_parameter_lies_as_the_parameter(kind):
    rules: DimsRules = {"0/param/weight": "f[tp] ...", "*": "..."}
    description = described(parameters=rules)
    (weight, *_) = description.parameters()
    assert description.parameter_layout(weight, kind) == lowered("f[tp] d1", (6, 4))


@pytest.mark.parametrize(
    ("text", "shape", "written_out"),
    [
        ("...", (), ""),
        ("...", (2, 3), "d0 d1"),
        ("b s[tp] ...", (2, 3), "b s[tp]"),
        ("b s[tp] ...", (2, 3, 4, 5), "b s[tp] d2 d3"),
        ("... partial[tp]", (2,), "d0 partial[tp]"),
        ("b[dp] ... partial[tp]", (2, 3), "b[dp] d1 partial[tp]"),
    ],
)
def test_three_dots_stand_for_all_further_dims(text, shape, written_out):
    layout = activation(described({"*": text}), "0", Kind.OUTPUT, *shape)
    assert layout == lowered(written_out, shape)


def test_parameters_are_laid_out_by_kind_and_name():
    description = described(
        parameters={
            "0": "f[tp] ...",
            "1.1/param_grad/*": "... partial[tp]",
            "1.1/*/weight": "h f[tp]",
            "*": "...",
        }
    )
    texts = {
        (f"{named.module}.{named.slot}", kind): str(layout.dims)
        for named, kind in itertools.product(
            description.parameters(), (Kind.MAIN_GRAD, Kind.PARAM_GRAD)
        )
        if isinstance(layout := description.parameter_layout(named, kind), ShardLayout)
    }
    assert texts == {
        ("0.weight", Kind.MAIN_GRAD): "f[tp] d1",
        ("0.weight", Kind.PARAM_GRAD): "f[tp] d1",
        ("0.bias", Kind.MAIN_GRAD): "f[tp]",
        ("0.bias", Kind.PARAM_GRAD): "f[tp]",
        ("1.1.weight", Kind.MAIN_GRAD): "h f[tp]",
        ("1.1.weight", Kind.PARAM_GRAD): "d0 d1 partial[tp]",
        ("1.1.bias", Kind.MAIN_GRAD): "d0",
        ("1.1.bias", Kind.PARAM_GRAD): "d0 partial[tp]",
    }


def test_what_no_pattern_matches_is_skipped_and_so_is_what_has_a_reason():
    reason = NoLayout(reason="tokens in an order of their own")
    description = described({"0": reason, "1": "..."})
    assert activation(description, "0", Kind.OUTPUT, 2) is reason
    assert activation(description, "1.0", Kind.OUTPUT, 2) == NoLayout(
        reason="no pattern of activations matches 1.0/output/0"
    )


def test_what_a_stage_is_given_can_be_elsewhere_but_not_a_parameter():
    description = described({"@root/*input/*": RecordedElsewhere(), "*": "..."})
    for kind in (Kind.INPUT, Kind.GRAD_INPUT):
        assert activation(description, "@root", kind, 2) == RecordedElsewhere()
    with pytest.raises(LayoutError) as error:
        described(parameters={"0": RecordedElsewhere()})
    assert str(error.value) == (
        "a parameter of this rank's model cannot be elsewhere\n"
        "  where:    parameters, 0\n"
        "  expected: dims text, or NoLayout with a reason to skip it\n"
        "  got:      RecordedElsewhere()\n"
        "  to do:    leave a parameter that is not there out of the model"
    )


def test_a_text_that_does_not_fit_the_tensor_is_an_error():
    with pytest.raises(LayoutError) as error:
        activation(described({"*": "b s h"}), "0", Kind.OUTPUT, 2, 3)
    assert reason_of(error.value, "describe it") == (
        "the dims text has another number of dims than the tensor (activations, '*': "
        "'b s h'; expected 3 dims; got shape [2, 3])"
    )


def test_an_axis_that_the_mesh_lacks_is_told_at_once():
    for rules in ({"0": "b s[sp]"}, {"0": "... partial[sp]"}, {"0": "(f h)[sp]"}):
        with pytest.raises(LayoutError) as error:
            described(parameters=rules)
        (text,) = rules.values()
        assert str(error.value) == (
            "a description names an axis that its mesh does not have\n"
            f"  where:    0: {text}\n"
            "  expected: one of dp, tp\n"
            "  got:      sp\n"
            "  to do:    correct the axis, or give the mesh its size"
        )
    with pytest.raises(LayoutError, match="where: +microbatch_axis"):
        described(microbatch_axis="sp")
    with pytest.raises(LayoutError, match="dims text"):
        described({"*": "b s["})


def test_microbatches_scales_and_mesh_come_from_the_user():
    description = described(microbatch_axis="dp", scales={Kind.PARAM_GRAD: 3.0})
    assert [description.global_microbatch(n) for n in range(3)] == [1, 4, 7]
    assert description.scale(Kind.PARAM_GRAD) == 3.0
    assert description.scale(Kind.MAIN_GRAD) == 1.0
    assert description.meshes() == (MESH,)
    assert [described().global_microbatch(n) for n in range(3)] == [0, 1, 2]


def test_a_stage_can_count_its_modules_from_zero():
    def rename(path: str) -> str:
        return f"{int(path[0]) + 2}{path[1:]}"

    description = described({"3.0": "b f[tp]", "*": "..."}, rename=rename)
    assert [path for path, _ in description.modules()] == [
        *("@root", "2", "3", "3.0", "3.1")
    ]
    assert [named.module for named in description.parameters()] == [
        *("2", "2", "3.1", "3.1")
    ]
    layout = activation(description, "3.0", Kind.OUTPUT, 2, 3)
    assert layout == lowered("b f[tp]", (2, 3))


def test_the_wrapper_of_data_parallelism_is_looked_through():
    wrapped = nn.DataParallel(nn.Linear(2, 2))
    description = DimsDescription(wrapped, MESH, activations=WHOLE, parameters=WHOLE)
    assert dict(description.modules()) == {"@root": wrapped.module}
    assert description.versions()["torch"] == torch.__version__
