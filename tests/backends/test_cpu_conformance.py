"""The cpu backend runs the suite that ships with ttrace."""

from ttrace.backends.cpu_backend import CpuBackend
from ttrace.backends.cpu_kernels import BLOCK_ELEMENTS
from ttrace.testing import BackendSuite


class TestCpuBackend(BackendSuite):
    tile_elements = 4096
    chunk_elements = 4 * BLOCK_ELEMENTS
    max_norm_error = 1e-12

    def backend(self) -> CpuBackend:
        return CpuBackend()
