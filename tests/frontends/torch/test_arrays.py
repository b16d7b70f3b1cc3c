import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ttrace.errors import DtypeError
from ttrace.frontends.torch_parts.arrays import (
    RecentCopies,
    array_of,
    dtype_name,
    tensor_of,
    unobserved,
)
from ttrace.ir.dtypes import DTYPES

FLOATING = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def random_bits(name: str, shape: tuple[int, ...]) -> np.ndarray:
    dtype = DTYPES[name].numpy
    generator = np.random.default_rng(0)
    if name == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(generator.bytes(size), dtype).reshape(shape)


@pytest.mark.parametrize("name", DTYPES)
def test_every_bit_survives_for_every_dtype(name):
    array = random_bits(name, (5, 7))  # NaN payloads and infinities among them
    tensor = tensor_of(array.copy())
    assert dtype_name(tensor) == name
    copy = array_of(tensor)
    assert copy.dtype == DTYPES[name].numpy
    assert copy.tobytes() == array.tobytes()


@pytest.mark.parametrize("name", FLOATING)
def test_values_are_those_that_torch_means(name):
    values = torch.tensor([0.0, -1.5, 2.0, 448.0])
    array = array_of(values.to(getattr(torch, name)))
    np.testing.assert_array_equal(array.astype(np.float32), values.numpy())
    assert array.dtype == np.dtype(getattr(ml_dtypes, name, name))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2),
        torch.arange(24.0)[::3],
        torch.arange(3.0).expand(4, 3),
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.arange(4.0, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
        torch.complex(torch.ones(3), torch.arange(3.0)).conj().imag,
    ],
    ids=[
        "transposed",
        "strided",
        "expanded",
        "scalar",
        "empty",
        "needs_grad",
        "parameter",
        "negated_view",
    ],
)
def test_strides_and_flags_do_not_matter(tensor):
    array = array_of(tensor)
    assert array.shape == tuple(tensor.shape)
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, tensor.detach().resolve_neg().numpy())


def test_the_copy_has_memory_of_its_own():
    tensor = torch.ones(3)
    array = array_of(tensor)
    tensor.add_(1)
    assert array.tolist() == [1, 1, 1]


def test_inference_tensors_can_be_copied():
    with torch.inference_mode():
        tensor = torch.ones(3)
        assert array_of(tensor).tolist() == [1, 1, 1]
    assert array_of(tensor).tolist() == [1, 1, 1]


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized dtypes are deprecated, yet in use
        return torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)


def under_vmap() -> torch.Tensor:
    kept = []
    torch.vmap(lambda x: kept.append(x) or x)(torch.ones(2, 2))
    return kept[0]


def distributed_tensor() -> torch.Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group(
        "fake", rank=0, world_size=2, store=FakeStore()
    )
    try:
        mesh = init_device_mesh("cpu", (2,))
        return DTensor.from_local(torch.ones(2), mesh, [Replicate()])
    finally:
        torch.distributed.destroy_process_group()


def freed() -> torch.Tensor:
    tensor = torch.ones(300)
    tensor.untyped_storage().resize_(0)
    return tensor


class Wrapper(torch.Tensor):
    """Has no memory, and does not say what it wraps."""

    @staticmethod
    def __new__(cls):
        return torch.Tensor._make_wrapper_subclass(cls, (2,))  # pyright: ignore

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} would be observed")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (freed, "memory was given back"),
        (Wrapper, "wraps others (Wrapper)"),
        (lambda: torch.empty(2, device="meta"), "meta"),
        (lambda: torch.ones(2, 2).to_sparse(), "sparse"),
        (quantized, "quantized"),
        (lambda: torch.ones(2, dtype=torch.complex64), "complex64"),
        (under_vmap, "vmap"),
        (torch.nn.UninitializedParameter, "not initialized"),
        (distributed_tensor, "DTensor"),
    ],
    ids=[
        "freed",
        "wrapper",
        "meta",
        "sparse",
        "quantized",
        "complex",
        "vmap",
        "lazy",
        "dtensor",
    ],
)
def test_what_has_no_plain_memory_is_refused(make, word):
    tensor = make()
    with pytest.raises(DtypeError, match="cannot be stored") as raised:
        array_of(tensor)
    assert word in str(raised.value)


def test_copying_is_invisible_to_modes_and_default_devices():
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    tensor = torch.ones(300)
    with torch.device("meta"), FlopCounterMode(display=False), Watch():
        assert RecentCopies().array_of(tensor).sum() == 300
    assert not seen


def test_unobserved_records_no_graph():
    tensor = torch.ones(2, requires_grad=True)
    with unobserved():
        assert not (tensor * 2).requires_grad


def test_recent_copies_are_shared_where_the_bits_are_equal():
    copies = RecentCopies()
    tensor = torch.randn(1000)
    first = copies.array_of(tensor)
    assert copies.array_of(tensor.clone()) is first
    assert not first.flags.writeable
    assert copies.array_of(tensor.view(torch.int32)) is not first  # another dtype
    assert copies.array_of(tensor.reshape(10, 100)).shape == (10, 100)


def test_recent_copies_notice_any_change_of_the_values():
    copies = RecentCopies()
    tensor = torch.zeros(1000)
    first = copies.array_of(tensor)
    tensor.data[-1] = -0.0  # no version counter, and equal as a number
    second = copies.array_of(tensor)
    assert second is not first
    assert np.signbit(second[-1]) and not np.signbit(first[-1])


def test_recent_copies_forget():
    copies = RecentCopies(num_kept=1)
    one, other = torch.zeros(300), torch.ones(300)
    first = copies.array_of(one)
    copies.array_of(other)
    assert copies.array_of(one) is not first
