"""Dims text that a script declares for values local to a ``shard_map``."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ttrace.errors import LayoutError
from ttrace.ir.dims import Dims
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import ACTIVATIONS
from ttrace.ir.open_dims import with_rest
from ttrace.ir.tensor_id import TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredDims:
    """Dims text by pattern; the first pattern that matches counts.

    Attributes:
        rules: By pattern: one without ``/`` is matched against the module path of
            inputs, outputs and their gradients; any other against ``module/kind/slot``
            of every value. The text may end in ``...`` (see ``ttrace.ir.open_dims``).
    """

    rules: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> "DeclaredDims":
        """Reads the texts.

        Raises:
            LayoutError: A text cannot be read.
        """
        for pattern, text in texts.items():
            try:
                parse_dims(with_rest(text, 0))
            except LayoutError as error:
                raise LayoutError(
                    error.what,
                    where=f"jax_capture.trace(dims=...), {pattern!r}: {text!r}",
                    expected=error.expected,
                    got=error.got,
                    remedy=error.remedy,
                ) from error
        return cls(rules=dict(texts))

    def of(self, id_: TensorId, num_dims: int) -> Dims | None:
        """The dims of a tensor, or None where nothing is declared.

        Args:
            id_: The tensor.
            num_dims: Number of dims of what one device holds of it.
        """
        for pattern, text in self.rules.items():
            if _matches(pattern, id_):
                return parse_dims(with_rest(text, num_dims))
        return None

    def unmatched(self, ids: Iterable[TensorId]) -> tuple[str, ...]:
        """The patterns that match none of some tensors."""
        left = list(self.rules)
        for id_ in ids:
            left = [pattern for pattern in left if not _matches(pattern, id_)]
        return tuple(left)


def _matches(pattern: str, id_: TensorId) -> bool:
    if "/" in pattern:
        full = f"{id_.module}/{id_.kind.value}/{id_.slot or ''}"
        return fnmatch.fnmatchcase(full, pattern)
    return id_.kind in ACTIVATIONS and fnmatch.fnmatchcase(id_.module, pattern)
