"""Losses as Megatron's loss function returns them."""

import pytest

torch = pytest.importorskip("torch")

from ttrace.frontends.megatron_parts.loss import loss_tensors  # noqa: E402
from ttrace.frontends.torch_parts.description import NoLayout  # noqa: E402
from ttrace.ir.layout import Mesh, ShardLayout  # noqa: E402

SUM, NUM_TOKENS, REPORT = torch.tensor(6.0), torch.tensor(3), {}


def mesh(cp: int) -> Mesh:
    return Mesh(name="dense", sizes={"cp": cp}, coords={"cp": 0})


def read(outputs: tuple, cp: int, *, is_per_token: bool = False) -> list[tuple]:
    """Slot, value, partial axes and scale of every loss."""
    found = []
    for loss in loss_tensors(outputs, mesh(cp), is_per_token=is_per_token):
        assert isinstance(loss.layout, ShardLayout)
        value = (loss.slot, loss.value.item(), loss.layout.partial_axes, loss.scale)
        found.append(value)
    return found


def test_the_mean_over_a_part_of_the_sequence_is_a_share_times_its_number():
    # Two ranks with means 2 and 4 stand for (2 + 4) / 2.
    assert read((SUM, NUM_TOKENS, REPORT), 1) == [(None, 2.0, (), 1.0)]
    assert read((SUM, NUM_TOKENS, REPORT), 2) == [(None, 2.0, ("cp",), 2.0)]


def test_a_micro_batch_without_tokens_divides_by_one():
    assert read((SUM, torch.tensor(0), REPORT), 1) == [(None, 6.0, (), 1.0)]


@pytest.mark.parametrize(("cp", "axes"), [(1, ()), (2, ("cp",))])
def test_a_loss_per_token_is_two_sums(cp, axes):
    found = read((SUM, NUM_TOKENS, REPORT), cp, is_per_token=True)
    assert found == [("sum", 6.0, axes, 1.0), ("num_tokens", 3, axes, 1.0)]


def test_a_loss_without_tokens_is_known_where_the_sequence_is_whole():
    assert read((SUM, REPORT), 1) == [(None, 6.0, (), 1.0)]
    (loss,) = loss_tensors((SUM, REPORT), mesh(2), is_per_token=False)
    assert isinstance(loss.layout, NoLayout)
    assert "does not return the number of tokens" in loss.layout.reason


def test_the_value_is_a_copy():
    total = torch.tensor(6.0)
    (loss,) = loss_tensors((total, REPORT), mesh(1), is_per_token=False)
    total /= 1000
    assert loss.value.item() == 6.0
