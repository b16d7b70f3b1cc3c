import pytest
import torch
from torch import nn

from ttrace.frontends.torch_parts.description import ModelDescription, PlainDescription
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout


@pytest.fixture
def model() -> nn.Module:
    tied = nn.Linear(2, 2)
    return nn.Sequential(tied, nn.Sequential(nn.Tanh(), tied))


def test_modules_and_parameters_come_once_under_their_first_name(model):
    description: ModelDescription = PlainDescription(model)
    assert [path for path, _ in description.modules()] == ["@root", "0", "1", "1.0"]
    named = [(p.module, p.slot) for p in description.parameters()]
    assert named == [("0", "weight"), ("0", "bias")]


def test_parameters_of_the_model_itself_belong_to_the_root():
    (weight, _) = PlainDescription(nn.Linear(2, 2)).parameters()
    assert (weight.module, weight.slot) == ("@root", "weight")


def test_data_parallel_wrappers_are_looked_through(model):
    wrapped = PlainDescription(nn.DataParallel(model))
    assert dict(wrapped.modules())["@root"] is model


def test_ranks_hold_whole_tensors_of_microbatches_of_their_own(model):
    description = PlainDescription(model, data_parallel_rank=1, data_parallel_size=4)
    assert [description.global_microbatch(n) for n in range(3)] == [1, 5, 9]
    (mesh,) = description.meshes()
    assert (mesh.sizes, mesh.coords) == ({"dp": 4}, {"dp": 1})
    for layout in (
        description.activation_layout("0", model, Kind.OUTPUT, "0", (3, 2)),
        description.parameter_layout(next(description.parameters()), Kind.PARAM),
    ):
        assert isinstance(layout, ShardLayout)
        assert layout.local_shape == layout.global_shape
        assert layout.mesh == mesh.name
    assert description.scale(Kind.LOSS) == 1.0


def test_settings_tell_what_changes_numbers(model):
    description = PlainDescription(model)
    assert description.versions()["torch"] == torch.__version__
    before = description.settings()
    torch.use_deterministic_algorithms(True)
    try:
        assert description.settings() != before
    finally:
        torch.use_deterministic_algorithms(False)
