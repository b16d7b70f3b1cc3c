"""Averages of a model, or of a part of it, lie where what they are averages of lies."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ttrace.errors import UsageError
from ttrace.frontends import torch_capture
from ttrace.frontends.torch_parts.averaged_models import averaged_parts
from ttrace.frontends.torch_parts.names import canonical_parameters
from ttrace.ir.kinds import Kind
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace


class Gan(nn.Module):
    def __init__(self, critic: int = 1):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.critic = nn.Sequential(nn.Linear(4, critic), nn.BatchNorm1d(critic))

    def forward(self, x):
        return self.critic(self.generator(x))


def paths(averaged, model) -> list[str]:
    return [part.path for part in averaged_parts(averaged, canonical_parameters(model))]


def test_of_what_part_they_are():
    model = Gan()
    assert paths(AveragedModel(model), model) == ["@root"]
    assert paths(copy.deepcopy(model), model) == ["@root"]
    assert paths(AveragedModel(model.generator), model) == ["generator"]
    assert paths(AveragedModel(model.generator[0]), model) == ["generator.0"]
    several = {"generator": AveragedModel(model.generator), "critic.0": model.critic[0]}
    assert paths(several, model) == ["generator", "critic.0"]
    inner = nn.Sequential(Gan(), nn.Linear(1, 1))
    assert paths(copy.deepcopy(inner[0]), inner) == ["0"]


def test_several_parts_of_the_same_names_and_shapes_are_told_by_hand():
    model = Gan(critic=4)
    averaged = AveragedModel(model.critic)
    with pytest.raises(UsageError) as caught:
        paths(averaged, model)
    assert str(caught.value) == (
        "the averages may be of several parts of the model\n"
        "  where:    torch_capture.trace(averaged=...)\n"
        "  expected: a model of whose names and shapes one part is\n"
        "  got:      generator, critic\n"
        "  to do:    name the part: averaged={'generator': averaged_model}"
    )
    assert paths({"critic": averaged}, model) == ["critic"]


@pytest.mark.parametrize(
    ("averaged", "part", "got"),
    [
        (nn.Linear(5, 4), "it or of a part of it", "weight, bias"),
        ({"critic": nn.PReLU(3)}, "critic", "weight"),
        ({"no_such": nn.Linear(4, 4)}, "no_such", "weight, bias"),
    ],
    ids=["shapes", "names", "path"],
)
def test_averages_of_something_else_are_refused(averaged, part, got):
    with pytest.raises(UsageError) as caught:
        paths(averaged, Gan())
    assert str(caught.value) == (
        "the averages are not of the model's parameters\n"
        "  where:    torch_capture.trace(averaged=...)\n"
        f"  expected: the names and shapes of {part}: generator.0.weight, "
        "generator.0.bias, generator.1.weight, ...\n"
        f"  got:      {got}\n"
        "  to do:    give the average of the model, or of a part of it by the part's "
        "path: averaged={'path.of.the.part': averaged_model}"
    )


def test_those_of_a_part_are_recorded_beside_what_they_are_of(tmp_path, monkeypatch):
    request = RecordRequest(out=tmp_path / "trace")
    for name, value in request.to_environment().items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    model = Gan()
    average = AveragedModel(model.generator)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch_capture.trace(model, optimizer, averaged=average) as trace:
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        average.update_parameters(model.generator)
        trace.step()
    info = open_trace(request.out).info
    found = {str(id_) for id_ in info.tensors if "averaged" in (id_.slot or "")}
    assert found == {
        f"step0/generator.{name}.averaged"
        for name in (
            "0/optimizer_state/weight",
            "0/optimizer_state/bias",
            "1/optimizer_state/weight",
            "1/optimizer_state/bias",
            "1/updated_buffer/running_mean",
            "1/updated_buffer/running_var",
            "1/updated_buffer/num_batches_tracked",
        )
    }
    assert not [id_ for id_ in info.skipped if id_.kind is Kind.OPTIMIZER_STATE]
