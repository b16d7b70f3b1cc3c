"""Markers of optimizers that make one update of several mini-steps.

What they mark is no value of the trace: it says which of the calls of an optimizer made
an update, once the step has run (``record.mini_steps``).
"""

from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE

MINI_STEP = TapSite(
    module=ROOT_MODULE, kind=Kind.OPTIMIZER_STATE, slot="ttrace.mini_step"
)
"""How many mini-steps ``optax.MultiSteps`` has added up since the last update."""

APPLY_EVERY = TapSite(
    module=ROOT_MODULE, kind=Kind.OPTIMIZER_STATE, slot="ttrace.apply_every"
)
"""The same of ``optax.apply_every``, which adds up updates and not gradients."""

MARKERS = frozenset({MINI_STEP, APPLY_EVERY})
"""Both leave a program whatever is recorded."""
