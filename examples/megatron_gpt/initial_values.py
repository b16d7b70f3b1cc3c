"""What the parameters look like at the start, by their names in Megatron; no torch."""

from ttrace.generate import Bell, Distribution


def initial_distribution(module: str, slot: str) -> Distribution:
    """What a parameter looks like at the start.

    No parameter is constant: a bias of zeros or a norm of ones would hide that it is
    cut, shifted or exchanged.

    Args:
        module: Path of its module.
        slot: Its own name.
    """
    if slot == "softmax_offset":
        return Bell(scale=1.0)
    if slot in ("dt_bias", "A_log"):
        return Bell(scale=2.0**-2)
    if "conv1d" in module:
        return Bell(scale=2.0**-2)
    if slot == "bias":
        return Bell(scale=2.0**-6)
    if "norm" in module:
        return Bell(scale=2.0**-5, offset=1.0)
    if module.endswith(".router"):
        # Apart enough for every layout to choose the same experts.
        return Bell(scale=2.0**-2)
    if slot == "weight" and module.endswith(("linear_proj", "linear_fc2")):
        return Bell(scale=2.0**-6)
    return Bell(scale=2.0**-5)
