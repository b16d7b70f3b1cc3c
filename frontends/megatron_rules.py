"""Layout rules for modules of one's own: ``megatron_adapter.trace(..., rules=[...])``.

For example, for a norm inside of ``MyAttention`` that every tensor-parallel rank has
whole and applies to its own heads::

    rules = [
        Rule(module="MyNorm", parent="MyAttention", direction=Direction.OUTPUT,
             slot="0", dims="s[cp:zigzag] b heads[tp] d"),
        Rule(module="MyNorm", parent="MyAttention", direction=Direction.PARAMETER,
             dims="d", gradient_dims="d partial[cp,tp]"),
    ]
"""

from ttrace.frontends.megatron_parts.rules import Direction as Direction
from ttrace.frontends.megatron_parts.rules import Rule as Rule
