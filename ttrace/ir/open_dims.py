"""Dims text that ends in ``...``: for tensors of any number of dims."""

from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.splits import PARTIAL

REST = "..."
"""At the end of a dims text, before ``partial[...]`` if there is one: all further dims,
uncut."""


def with_rest(text: str, num_dims: int) -> str:
    """Writes out the dims that ``...`` stands for.

    Args:
        text: Dims text, with or without ``...``.
        num_dims: Number of dims of the tensor.

    Raises:
        LayoutError: The text cannot be read.
    """
    named, rest, after = text.partition(REST)
    if not rest:
        return text
    after = after.strip()
    if after and not after.startswith(f"{PARTIAL}["):
        raise LayoutError(
            "dims follow the ... of a dims text",
            where=repr(text),
            expected=f"... as the last dim; only {PARTIAL}[axis] may follow",
            got=repr(after),
            remedy="name the dims from the first on, and write ... for the others",
        )
    num_named = len(parse_dims(named).dims)
    further = (f"d{dim}" for dim in range(num_named, num_dims))
    return " ".join((named.strip(), *further, after)).strip()
