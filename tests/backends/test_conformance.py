"""The JAX backend runs the suite that ships with ttrace."""

from ttrace.backends.chunks import BLOCK_ELEMENTS, CHUNK_ELEMENTS
from ttrace.backends.jax_backend import JaxBackend
from ttrace.testing import BackendSuite


class TestJaxBackend(BackendSuite):
    block_elements = BLOCK_ELEMENTS
    chunk_elements = CHUNK_ELEMENTS

    def backend(self) -> JaxBackend:
        return JaxBackend(min_wide_elements=0)
