"""Torch tensors as numpy arrays of exactly the same bits; copies, never views."""

import collections
import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ttrace.errors import DtypeError
from ttrace.ir.dtypes import DTYPES

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By item size, a dtype that both torch and numpy know and that copies any bits."""

_NAMES = {getattr(torch, name): name for name in DTYPES if getattr(torch, name, None)}
"""The dtype names of ``ttrace.ir.dtypes`` by torch dtype."""

_SHARING_PAYS = 256
"""Elements from which on a comparison is worth its overhead."""


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Runs tensor operations that nobody else is to see.

    Autograd does not record them, and neither a default device nor any mode that the
    training script has entered (selective checkpointing, FLOP counters) meets them.
    """
    with (
        torch.no_grad(),
        torch._C.DisableTorchFunction(),
        torch._C._DisableTorchDispatch(),
    ):
        yield


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether the elements of a strided tensor lie in memory of its own.

    A tensor that wraps others has none, and neither has one whose memory was given
    back while somebody still holds it, as sharded training does. Reading such a tensor
    would end the process.
    """
    if not tensor.numel():
        return not is_traceable_wrapper_subclass(tensor)
    try:
        with unobserved():
            return tensor.untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):
        return False


def is_storable(tensor: torch.Tensor) -> bool:
    """Whether a trace can hold a tensor as it is."""
    return _obstacle(tensor) is None


def dtype_name(tensor: torch.Tensor) -> str:
    """The name under which a tensor's dtype is stored.

    Raises:
        DtypeError: A trace cannot hold this kind of tensor.
    """
    obstacle = _obstacle(tensor)
    if obstacle is not None:
        raise DtypeError(
            f"{obstacle} cannot be stored in a trace",
            expected="a dense tensor with memory of its own, of a dtype out of "
            + ", ".join(DTYPES),
            got=f"{type(tensor).__name__} of {tensor.dtype}",
            remedy="record its local, dense part, or leave it out with a filter",
        )
    return _NAMES[tensor.dtype]


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Copies a tensor, bit for bit.

    Args:
        tensor: Of any device and strides, of any dtype that a trace can hold.

    Returns:
        An array of its own memory, C-contiguous, of the tensor's shape.

    Raises:
        DtypeError: A trace cannot hold this kind of tensor.
    """
    dtype = DTYPES[dtype_name(tensor)].numpy
    with unobserved():
        return _copied(_bits_of(tensor)).numpy().view(dtype)


class RecentCopies:
    """Copies tensors, and hands a recent copy out again where the bits are equal.

    The output of one module is the input of the next and of its children: most tensors
    are met several times within a few calls. Reading both costs far less than a copy,
    whose memory is new to the process. Only bits count: a tensor object may have been
    changed in between without a trace.

    Copies may therefore be shared and are read-only.
    """

    def __init__(self, num_kept: int = 6):
        self._kept: collections.deque[tuple[torch.Tensor, np.ndarray]] = (
            collections.deque(maxlen=num_kept)
        )

    def array_of(self, tensor: torch.Tensor) -> np.ndarray:
        """As the function of that name, but read-only and perhaps shared.

        Raises:
            DtypeError: A trace cannot hold this kind of tensor.
        """
        dtype = DTYPES[dtype_name(tensor)].numpy
        with unobserved():
            bits = _bits_of(tensor)
            if bits.device.type == "cpu" and bits.numel() >= _SHARING_PAYS:
                for kept, array in self._kept:
                    if array.dtype == dtype and torch.equal(kept, bits):
                        return array
            copy = _copied(bits)
            array = copy.numpy().view(dtype)
            array.flags.writeable = False
            if array.size >= _SHARING_PAYS:
                self._kept.appendleft((copy, array))
            return array


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """The tensor of an array that ``array_of`` made; shares its memory."""
    dtype = getattr(torch, array.dtype.name)
    bits = np.dtype(str(_BITS[array.itemsize]).removeprefix("torch."))
    return torch.from_numpy(array.view(bits)).view(dtype)


def _bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """A storable tensor's bits as integers; shares its memory."""
    plain = tensor.detach().resolve_neg()
    return plain.view(_BITS[plain.element_size()])


def _copied(bits: torch.Tensor) -> torch.Tensor:
    return torch.empty(bits.shape, dtype=bits.dtype, device="cpu").copy_(bits)


def _obstacle(tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from being stored, as the subject of a sentence."""
    if is_traceable_wrapper_subclass(tensor):
        return f"a tensor that wraps others ({type(tensor).__name__})"
    if is_functorch_wrapped_tensor(tensor):
        return "a tensor under a function transform (vmap, grad)"
    if tensor.is_meta:
        return "a tensor without data (device meta)"
    if tensor.is_quantized:
        return "a quantized tensor"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"a tensor of layout {tensor.layout}"
    if torch.nn.parameter.is_lazy(tensor):
        return "a parameter that is not initialized yet"
    if tensor.dtype not in _NAMES:
        return f"the dtype {tensor.dtype}"
    if not has_memory(tensor):
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):
            return "a tensor whose memory was given back"
        return f"a tensor that wraps others ({type(tensor).__name__})"
    return None
