"""Initial parameters: a function of name and global index, on every layout."""

import pytest

torch = pytest.importorskip("torch")

from ttrace.errors import LayoutError  # noqa: E402
from ttrace.frontends.torch_initialization import initialize_parameters  # noqa: E402
from ttrace.frontends.torch_parts.description import (  # noqa: E402
    NamedParameter,
    NoLayout,
    PlainDescription,
)
from ttrace.generate import Bell, Uniform, generate  # noqa: E402
from ttrace.ir.dims_text import parse_dims  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import ShardLayout  # noqa: E402
from ttrace.testing import cut, meshes  # noqa: E402


class CutDescription(PlainDescription):
    """Describes weights that are cut along their rows."""

    def __init__(self, model, mesh):
        super().__init__(model)
        self._cut_mesh = mesh

    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        rows, columns = named.parameter.shape
        shape = (rows * self._cut_mesh.sizes["tp"], columns)
        return parse_dims("o[tp] i").lower(shape, self._cut_mesh)


class UnknownDescription(PlainDescription):
    def parameter_layout(
        self, named: NamedParameter, kind: Kind
    ) -> ShardLayout | NoLayout:
        return NoLayout(reason="nobody knows")


def test_a_whole_parameter_is_the_generated_tensor():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8))
    initialize_parameters(PlainDescription(model), lambda named: Bell(), seed=3)
    expected = generate("0.weight", Bell(), (8, 4), seed=3)
    assert (model[0].weight.detach().numpy() == expected).all()


def test_shards_are_cut_out_of_the_same_tensor():
    whole = generate("@root.weight", Uniform(), (8, 4))
    for mesh in meshes("dense", {"tp": 2}):
        model = torch.nn.Linear(4, 4, bias=False)
        description = CutDescription(model, mesh)
        initialize_parameters(description, lambda named: Uniform())
        (named,) = description.parameters()
        layout = description.parameter_layout(named, Kind.PARAM)
        assert isinstance(layout, ShardLayout)
        assert (model.weight.detach().numpy() == cut(whole, layout)).all()


def test_what_a_parameter_looks_like_may_depend_on_its_name():
    model = torch.nn.Linear(4, 4)
    initialize_parameters(
        PlainDescription(model),
        lambda named: Uniform(offset=64.0 if named.slot == "bias" else 0.0),
    )
    assert (model.bias > 62).all() and (model.weight < 2).all()


def test_low_precision_parameters_are_rounded_once():
    model = torch.nn.Linear(4, 8, bias=False, dtype=torch.bfloat16)
    initialize_parameters(PlainDescription(model), lambda named: Bell())
    expected = torch.from_numpy(generate("@root.weight", Bell(), (8, 4)))
    assert torch.equal(model.weight, expected.bfloat16())


def test_a_parameter_of_unknown_layout_is_an_error():
    with pytest.raises(LayoutError) as caught:
        initialize_parameters(
            UnknownDescription(torch.nn.Linear(1, 1)), lambda named: Bell()
        )
    assert "@root.weight" in str(caught.value)
    assert "nobody knows" in str(caught.value)
