"""The JAX backend runs the suite that ships with ttrace, with float64 and without."""

import numpy as np
import pytest

from ttrace.backends import jax_kernels
from ttrace.backends.chunks import CHUNK_ELEMENTS, TILE_ELEMENTS
from ttrace.backends.jax_backend import JaxBackend
from ttrace.compare.backend import ArrayPair
from ttrace.testing import BackendSuite


class TestJaxBackend(BackendSuite):
    tile_elements = TILE_ELEMENTS
    chunk_elements = CHUNK_ELEMENTS

    def backend(self) -> JaxBackend:
        return JaxBackend(min_wide_elements=0)


@pytest.mark.slow
class TestJaxBackendWithoutFloat64(BackendSuite):
    """As on a device without float64: other kernels, for all that float32 holds."""

    tile_elements = TILE_ELEMENTS
    chunk_elements = CHUNK_ELEMENTS
    dtypes = (
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
        ("float16", "float16"),
        ("float8_e4m3fn", "float8_e4m3fn"),
        ("float8_e5m2", "float8_e4m3fn"),
        ("int16", "float32"),
        ("bool", "int8"),
    )

    def backend(self) -> JaxBackend:
        return JaxBackend(min_wide_elements=0, has_float64=False)


def test_without_float64_other_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the class above is for."""
    used = []
    make = jax_kernels.make_kernel

    def listen(reference: str, candidate: str | None) -> jax_kernels.Kernel:
        used.append((reference, candidate))
        return make(reference, candidate)

    monkeypatch.setattr(jax_kernels, "make_kernel", listen)
    pair = ArrayPair(
        reference=np.ones(9, np.float32), candidate=np.zeros(9, np.float32)
    )
    for has_float64, expected in ((True, []), (False, [("float32", "float32")])):
        (stats,) = JaxBackend(has_float64=has_float64).compare([pair])
        assert (stats.num_unequal, used) == (9, expected)
