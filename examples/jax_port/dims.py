"""How values inside ``shard_map`` lie, as dims text: all that ttrace is told of them."""

from collections.abc import Mapping

from ttrace.examples.jax_port.config import Architecture
from ttrace.examples.jax_port.layout import Flavor, Layout
from ttrace.examples.jax_port.training import Place

_COMMON = {
    "*@root*/loss/*": "partial[dp]",
    "*": "b[dp] ...",
}

_DIMS = {
    (Flavor.LINEN, Architecture.GPT2): {
        "*.attn.c_attn/*output/*": "b[dp] s three a[tp] d",
        "*.attn.c_proj/*input/*": "b[dp] s a[tp] d",
        "*.mlp.c_fc/*output/*": "b[dp] s f[tp]",
        "*.mlp.c_proj/*input/*": "b[dp] s f[tp]",
    },
    (Flavor.LINEN, Architecture.LLAMA): {
        "*.self_attention.out/*input/*": "b[dp] s a[tp] d",
        "*.self_attention.out": "b[dp] ...",
        "*.self_attention.*/*output/*": "b[dp] s a[tp] d",
        "*.mlp.wi/*output/*": "b[dp] s two f[tp]",
        "*.mlp.wo/*input/*": "b[dp] s f[tp]",
    },
    (Flavor.NNX, Architecture.GPT2): {
        "*.attention.out/*input/*": "b[dp] s f[tp]",
        "*.attention.out": "b[dp] ...",
        "*.attention.*/*output/*": "b[dp] s f[tp]",
        "*.mlp.up/*output/*": "b[dp] s f[tp]",
        "*.mlp.down/*input/*": "b[dp] s f[tp]",
    },
    (Flavor.NNX, Architecture.LLAMA): {
        "*.self_attn.o_proj/*input/*": "b[dp] s f[tp]",
        "*.self_attn.o_proj": "b[dp] ...",
        "*.self_attn.*/*output/*": "b[dp] s f[tp]",
        "*.mlp.down_proj/*input/*": "b[dp] s f[tp]",
        "*.mlp.down_proj": "b[dp] ...",
        "*.mlp.*/*output/*": "b[dp] s f[tp]",
    },
}


def shard_map_dims(place: Place) -> Mapping[str, str]:
    """Dims text by pattern; none where the compiler lays the values out."""
    if place.layout is not Layout.SHARD_MAP:
        return {}
    return {**_DIMS[place.flavor, place.config.architecture], **_COMMON}
