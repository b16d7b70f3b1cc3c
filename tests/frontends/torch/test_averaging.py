import pytest
import torch
from torch import nn

from ttrace.errors import LayoutError
from ttrace.frontends.torch_parts.averaging import (
    Averaging,
    common_divisor,
    find_averaging,
    require_average,
)


def averaging(divisor: float) -> Averaging:
    return Averaging(name="fully_shard", ranks=(0, 1), divisor=lambda: divisor)


def test_without_anything_that_averages_gradients_have_no_factor():
    assert find_averaging(nn.Linear(1, 1)) == ()
    assert common_divisor(()) == 1.0


def test_all_parts_of_a_model_have_one_factor():
    assert common_divisor([averaging(4.0), averaging(4.0)]) == 4.0


def test_parts_that_are_divided_by_different_numbers_are_named():
    with pytest.raises(LayoutError, match=r"different numbers \(1 and 4\)"):
        common_divisor([averaging(4.0), averaging(1.0)])


def test_a_communication_hook_of_the_users_own_is_not_taken_to_average():
    from torch.distributed.algorithms.ddp_comm_hooks import (
        debugging_hooks,
        default_hooks,
    )

    def own(state: object, bucket: object) -> torch.Tensor:
        return torch.zeros(1)

    require_average(default_hooks.fp16_compress_hook, "DistributedDataParallel")
    for hook in (own, debugging_hooks.noop_hook):
        with pytest.raises(LayoutError, match=f"{hook.__name__}.*not known to average"):
            require_average(hook, "DistributedDataParallel")
