"""Markers of optimizers that make one update of several mini-steps.

What they mark is no value of the trace: it says which of the calls of an optimizer made
an update, once the step has run (``record.mini_steps``). They leave a program whatever
is recorded.
"""

from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE

_MINI_STEP = "ttrace.mini_step."

APPLY_EVERY = TapSite(
    module=ROOT_MODULE, kind=Kind.OPTIMIZER_STATE, slot="ttrace.apply_every"
)
"""How many mini-steps ``optax.apply_every`` has added up since the last update; it adds
up updates and not gradients."""

_NOT_ADDED_UP = "ttrace.not_added_up."


def mini_step_site(optimizer: int, number: int) -> TapSite:
    """How many mini-steps the nth ``optax.MultiSteps`` of an optimizer has added up.

    Args:
        optimizer: Number of the optimizer; a step may call several.
        number: Of the ``optax.MultiSteps`` within it.
    """
    return TapSite(
        module=ROOT_MODULE,
        kind=Kind.OPTIMIZER_STATE,
        slot=f"{_MINI_STEP}{optimizer}.{number}",
    )


def not_added_up_site(module: str, slot: str) -> TapSite:
    """Of a parameter that none of them updates, while others are."""
    return TapSite(
        module=module, kind=Kind.OPTIMIZER_STATE, slot=f"{_NOT_ADDED_UP}{slot}"
    )


def is_counter(site: TapSite) -> bool:
    """Whether it counts mini-steps."""
    return site == APPLY_EVERY or (site.slot or "").startswith(_MINI_STEP)


def slot_not_added_up(site: TapSite) -> str | None:
    """The slot of a parameter that no mini-steps are added up for; else None."""
    slot = site.slot or ""
    return slot.removeprefix(_NOT_ADDED_UP) if slot.startswith(_NOT_ADDED_UP) else None


def is_marker(site: TapSite) -> bool:
    """Whether it is no value of the trace."""
    return is_counter(site) or slot_not_added_up(site) is not None
