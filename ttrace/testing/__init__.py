"""For tests, yours and ours: simulated ranks, and conformance suites.

A suite is a class of tests. Subclass it in a test file, say in one or two methods what
is under test, and run pytest on that file (``pip install pytest``; ttrace itself does
not need it). A frontend of your own, in a file ``test_my_frontend.py``::

    from ttrace.testing import FrontendSuite, Training, in_environment

    class TestMyFrontend(FrontendSuite):
        layouts = ("one", "two halves")  # the first one holds whole tensors

        def train(self, layout, environment):
            with in_environment(environment):  # what 'ttrace record' tells a process
                params, losses = my_small_training(layout, num_steps=2)
            return Training(losses=losses, parameters=params)

``BackendSuite`` takes ``backend(self)``, ``TraceSourceSuite`` takes ``source(self)``
and ``RendererSuite`` takes ``render(self, report)``. The class of each says what else
it can be told, and every test fails with a sentence that says what was expected.
"""

from ttrace.testing.assembled import Assembled as Assembled
from ttrace.testing.assembled import assemble as assemble
from ttrace.testing.backend_suite import BackendSuite as BackendSuite
from ttrace.testing.frontend_suite import FrontendSuite as FrontendSuite
from ttrace.testing.renderer_suite import RendererSuite as RendererSuite
from ttrace.testing.simulated_ranks import cut as cut
from ttrace.testing.simulated_ranks import cut_partial as cut_partial
from ttrace.testing.simulated_ranks import meshes as meshes
from ttrace.testing.simulated_ranks import padding_value as padding_value
from ttrace.testing.source_suite import TraceSourceSuite as TraceSourceSuite
from ttrace.testing.suite import failed_checks as failed_checks
from ttrace.testing.training import Training as Training
from ttrace.testing.training import full_disk as full_disk
from ttrace.testing.training import in_environment as in_environment
