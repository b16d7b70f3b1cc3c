"""The JAX frontend runs the suite that ships, on one device and on four."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np
import pytest

from tests.factories.jax_linen_job import LinenJob
from ttrace.frontends import jax_capture
from ttrace.frontends.jax_capture import TracedStep
from ttrace.ir.kinds import Kind
from ttrace.testing import FrontendSuite, Training, in_environment


@pytest.mark.slow
class TestLinen(FrontendSuite):
    layouts = ("one", "dp2 tp2")
    records_operations = True
    not_recorded: ClassVar[Mapping[Kind, str]] = {
        Kind.BUFFER: "what a module keeps is an output of it in jax",
        Kind.UPDATED_BUFFER: "what a module keeps is an output of it in jax",
        Kind.CLIPPED_GRAD: "optax clips inside of its update",
    }

    def train(self, layout: str, environment: Mapping[str, str]) -> Training:
        job = LinenJob() if layout == "one" else LinenJob(dp=2, tp=2)
        with in_environment(environment):
            step = jax_capture.trace(job.step)
        params, _, losses = job.run(step, self.num_steps).results
        if isinstance(step, TracedStep):
            step.close()
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return Training(
            losses=[np.asarray(loss) for loss in losses],
            parameters={jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves},
        )
