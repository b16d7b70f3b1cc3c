"""How taps leave each primitive that holds a jaxpr: the table of rules.

A rule binds its primitive again with extra outputs, and with everything else as it
was. The rules lie in ``calls``, ``loops``, ``branches`` and ``shard_map``.
"""

from collections.abc import Mapping

from jax.extend import core as jex_core

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.harvest.branches import harvest_cond
from ttrace.frontends.jax_parts.harvest.calls import (
    harvest_inlined,
    harvest_jit,
    harvest_remat,
)
from ttrace.frontends.jax_parts.harvest.harvester import Rule
from ttrace.frontends.jax_parts.harvest.loops import harvest_scan, harvest_while
from ttrace.frontends.jax_parts.harvest.shard_map import harvest_shard_map

RULES: Mapping[jex_core.Primitive, Rule] = {
    private_jax.jit_p: harvest_jit,
    private_jax.remat_p: harvest_remat,
    private_jax.custom_jvp_call_p: harvest_inlined,
    private_jax.custom_vjp_call_p: harvest_inlined,
    private_jax.closed_call_p: harvest_inlined,
    private_jax.scan_p: harvest_scan,
    private_jax.while_p: harvest_while,
    private_jax.cond_p: harvest_cond,
    private_jax.shard_map_p: harvest_shard_map,
}
"""By primitive."""
