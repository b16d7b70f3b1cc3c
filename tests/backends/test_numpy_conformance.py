"""The numpy backend runs the suite that ships with ttrace."""

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.testing import BackendSuite


class TestNumpyBackend(BackendSuite):
    """The oracle against itself: order, inputs, errors, known answers."""

    def backend(self) -> NumpyBackend:
        return NumpyBackend()
