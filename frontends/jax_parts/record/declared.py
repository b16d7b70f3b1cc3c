"""Dims text that a script declares for values local to a ``shard_map``."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

from ttrace.ir.dims import Dims, parse_dims
from ttrace.ir.tensor_id import TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredDims:
    """Dims text by pattern; the first pattern that matches counts.

    Attributes:
        rules: By pattern: one without ``/`` is matched against the module path, any
            other against ``module/kind/slot``.
    """

    rules: Mapping[str, Dims] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> "DeclaredDims":
        """Reads the texts.

        Raises:
            LayoutError: A text cannot be read.
        """
        return cls(rules={key: parse_dims(text) for key, text in texts.items()})

    def of(self, id_: TensorId) -> Dims | None:
        """The dims of a tensor, or None where nothing is declared."""
        full = f"{id_.module}/{id_.kind.value}/{id_.slot or ''}"
        for pattern, dims in self.rules.items():
            text = full if "/" in pattern else id_.module
            if fnmatch.fnmatchcase(text, pattern):
                return dims
        return None
