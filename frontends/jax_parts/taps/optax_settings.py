"""Settings of an optimizer of optax beside its learning rate, under torch's names.

Known are those of the links that it is made of, as far as these are optax's, and those
in the state of ``optax.inject_hyperparams``. Which parameters a masked link is for is
not looked at: the settings are those of the whole optimizer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.optax_closures import INJECTED, Update, links
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind
from ttrace.ir.optimizer_settings import SettingValue
from ttrace.ir.tensor_id import ROOT_MODULE

_PREFIX = "ttrace.setting."
"""Begins the slots of settings that are values of the program."""

_ALIASES = {"eps": "eps", "weight_decay": "weight_decay", "nesterov": "nesterov"}

_OF_LINKS = {
    "add_decayed_weights": {"weight_decay": "weight_decay"},
    "scale_by_adam": _ALIASES,
    "scale_by_adamax": _ALIASES,
    "scale_by_amsgrad": _ALIASES,
    "scale_by_lion": {},
    "scale_by_rms": {"decay": "alpha", "eps": "eps"},
    "trace": {"decay": "momentum", "nesterov": "nesterov"},
}
"""By link, the settings that it holds and what they are called; ``b1`` and ``b2`` are
``betas``."""

_ADAM = frozenset({"scale_by_adam", "scale_by_amsgrad"})

_INJECTED = {**_ALIASES, "momentum": "momentum"}
"""The same of the arguments of optimizers, as ``inject_hyperparams`` keeps them."""

_NO_DECAY = frozenset(
    {
        "apply_every",
        "clip",
        "clip_by_block_rms",
        "clip_by_global_norm",
        "identity",
        "scale",
        "scale_by_adam",
        "scale_by_adamax",
        "scale_by_amsgrad",
        "scale_by_lion",
        "scale_by_rms",
        "scale_by_schedule",
        "trace",
    }
)
"""Links of which it is known that no weight decays by them."""


def held_settings(update: Update) -> list[tuple[str, SettingValue]]:
    """What the links of a transformation were made with; a name may come twice.

    Args:
        update: Of the transformation.
    """
    found: list[tuple[str, SettingValue]] = []
    names = []
    for name, held in links(update):
        name = name.partition(".")[0]
        names.append(name)
        if name == INJECTED.partition(".")[0]:
            # What is in the state is not here.
            others = held.get("other_hps")
            found += _renamed(others if isinstance(others, Mapping) else {}, _INJECTED)
        elif name in _OF_LINKS:
            found += _renamed(held, _OF_LINKS[name])
    if _ADAM.intersection(names):
        found.append(("amsgrad", "scale_by_amsgrad" in names))
    if names and _NO_DECAY.issuperset(names):
        found.append(("weight_decay", 0.0))
    adam = [i for i, name in enumerate(names) if name in _ADAM]
    decay = [i for i, name in enumerate(names) if name == "add_decayed_weights"]
    if len(adam) == len(decay) == 1:
        found.append(("decoupled_weight_decay", decay > adam))
    return found


def _renamed(
    held: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[str, SettingValue]]:
    betas = [held.get(name) for name in ("b1", "b2")]
    numbers = [beta for beta in betas if isinstance(beta, int | float)]
    if len(numbers) == len(betas):
        yield "betas", (float(numbers[0]), float(numbers[1]))
    for name, known_as in names.items():
        value = held.get(name)
        if isinstance(value, bool | int | float):
            yield known_as, value


def tap_injected(state: Any) -> None:
    """Taps what ``inject_hyperparams`` keeps of settings.

    Args:
        state: Of the optimizer, after the step.
    """

    def is_injected(node: Any) -> bool:
        return isinstance(getattr(node, "hyperparams", None), Mapping)

    for node in jax.tree.leaves(state, is_leaf=is_injected):
        if not is_injected(node):
            continue
        held = node.hyperparams
        if "b1" in held and "b2" in held:
            _tap("betas", jnp.stack([jnp.asarray(held[name]) for name in ("b1", "b2")]))
        for name, known_as in _INJECTED.items():
            if name in held:
                _tap(known_as, jnp.asarray(held[name]))
        tap_injected(node.inner_state)


def _tap(name: str, value: jax.Array) -> None:
    site = TapSite(
        module=ROOT_MODULE, kind=Kind.OPTIMIZER_STATE, slot=f"{_PREFIX}{name}"
    )
    tap_in_program(site, value)


def setting_of(site: TapSite) -> str | None:
    """The setting that is tapped there; None if it is none."""
    slot = site.slot or ""
    return slot.removeprefix(_PREFIX) if slot.startswith(_PREFIX) else None
