"""Settings of an optimizer of optax beside its learning rate, under torch's names.

Known are those of the links that it is made of, as far as these are optax's, and those
in the state of ``optax.inject_hyperparams``. The labels of ``optax.multi_transform``
have settings of their own; which parameters a masked link is for is not looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.optax_closures import (
    INJECTED,
    Link,
    Update,
    links,
)
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.ir.kinds import Kind
from ttrace.ir.optimizer_settings import SettingValue, setting_text
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
        "adaptive_grad_clip",
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


_MOMENTS = frozenset({*_OF_LINKS, "scale_by_belief", "scale_by_yogi"}) - {
    "add_decayed_weights"
}
"""Links that make something of the gradients of several steps."""

_CLIPS = {
    "clip": ("value", "max_delta"),
    "clip_by_global_norm": ("global norm", "max_norm"),
    "clip_by_block_rms": ("block rms", "threshold"),
    "adaptive_grad_clip": ("adaptive", "clipping"),
}
"""Links that clip: what, and where they hold by how much."""

_NOT_CLIPPING = _NO_DECAY | {"add_decayed_weights", "set_to_zero"}
"""Links of which it is known that they do not clip, or how."""

_MOST_LABELS = 8
"""Labels of which each has settings of its own."""

Held = tuple[str | None, str, SettingValue]
"""Label, name and value of a setting; no label where it is that of all parameters."""


def held_settings(update: Update) -> list[Held]:
    """What the links of a transformation were made with; a name may come twice.

    Args:
        update: Of the transformation.
    """
    everything = list(links(update))
    labels = list(dict.fromkeys(link.labels for link in everything if link.labels))
    # Of nested labels, those within others say all.
    labels = [
        own for own in labels if not any(own == o[: len(own)] != o for o in labels)
    ]
    if not 1 < len(labels) <= _MOST_LABELS:
        return [(None, name, value) for name, value in _settings(everything)]
    return [
        ("/".join(own), name, value)
        for own in labels
        for name, value in _settings(
            [link for link in everything if link.labels == own[: len(link.labels)]]
        )
    ]


def _settings(chain: Sequence[Link]) -> list[tuple[str, SettingValue]]:
    """Those of the links that parameters go through."""
    found: list[tuple[str, SettingValue]] = []
    names = [link.name for link in chain]
    for link in chain:
        if link.name == INJECTED.partition(".")[0]:
            # What is in the state is not here.
            others = link.held.get("other_hps")
            found += _renamed(others if isinstance(others, Mapping) else {}, _INJECTED)
        elif link.name in _OF_LINKS:
            found += _renamed(link.held, _OF_LINKS[link.name])
    if _ADAM.intersection(names):
        found.append(("amsgrad", "scale_by_amsgrad" in names))
    if names and _NO_DECAY.issuperset(names):
        found.append(("weight_decay", 0.0))
    adam = [i for i, name in enumerate(names) if name in _ADAM]
    decay = [i for i, name in enumerate(names) if name == "add_decayed_weights"]
    if len(adam) == len(decay) == 1:
        found.append(("decoupled_weight_decay", decay > adam))
    if names and _NOT_CLIPPING.issuperset(names):
        clips = _clipping(chain)
        if clips is not None:
            found.append(("clipping", clips))
    return found


def _clipping(chain: Sequence[Link]) -> str | None:
    """By what gradients are clipped, or updates; None where that is no plain number."""
    moments = [i for i, link in enumerate(chain) if link.name in _MOMENTS]
    texts = []
    for index, link in enumerate(chain):
        if link.name not in _CLIPS:
            continue
        what, by = _CLIPS[link.name]
        limit = link.held.get(by)
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            return None
        is_after = bool(moments) and index > moments[0]
        after = f" after {chain[moments[0]].name}" if is_after else ""
        texts.append(f"{what} {setting_text(limit)}{after}")
    return ", then ".join(texts) or "none"


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
