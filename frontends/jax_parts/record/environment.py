"""What a JAX process says of itself: versions, and settings that change numbers."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "equinox")

_PRECISIONS = {
    "highest": "highest",
    "float32": "highest",
    "F32_F32_F32": "highest",
    "high": "high",
    "tensorfloat32": "high",
    "bfloat16_3x": "high",
    "TF32_TF32_F32": "high",
    "BF16_BF16_F32_X3": "high",
    "bfloat16": "medium",
    "BF16_BF16_F32": "medium",
}
"""``jax_default_matmul_precision`` in the words of torch's setting of that name."""

_DEFAULT_PRECISIONS = {"cpu": "highest", "gpu": "high", "tpu": "medium"}
"""What a platform does where nothing is said: GPUs use TF32, TPUs bfloat16."""


def versions() -> dict[str, str]:
    """The version of every installed package that computes the step."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def settings(*, strict: bool) -> dict[str, str | int | float | bool | None]:
    """Flags that change numbers, by name.

    ``float32_matmul_precision`` is a model setting: runs that differ in it are set up
    differently.
    A precision that ttrace does not know is given as it is.

    Args:
        strict: The step is compiled without excess precision, whatever the flags say.
    """
    config: Any = jax.config  # makes its attributes at run time
    platform_name = jax.default_backend()
    stated = config.jax_default_matmul_precision
    if stated in (None, "default"):
        precision = _DEFAULT_PRECISIONS.get(platform_name, "platform default")
    else:
        precision = _PRECISIONS.get(str(stated), str(stated))
    return {
        "platform": platform_name,
        "float32_matmul_precision": precision,
        "jax_default_matmul_precision": None if stated is None else str(stated),
        "jax_enable_x64": bool(config.jax_enable_x64),
        "jax_threefry_partitionable": bool(config.jax_threefry_partitionable),
        "xla_allow_excess_precision": not strict
        and allows_excess_precision(os.environ),
        "xla_cpu_max_isa": xla_flag(os.environ, "xla_cpu_max_isa"),
    }


def allows_excess_precision(environment: Mapping[str, str]) -> bool:
    """Whether XLA may keep float32 where the program says bfloat16; on by default.

    Args:
        environment: Consulted for ``XLA_FLAGS``; the last mention counts.
    """
    stated = xla_flag(environment, "xla_allow_excess_precision")
    return stated is None or stated.lower() not in ("false", "0")


def xla_flag(environment: Mapping[str, str], name: str) -> str | None:
    """What ``XLA_FLAGS`` says of a flag: its value, or None where it is not there.

    Args:
        environment: Consulted for ``XLA_FLAGS``; the last mention counts.
        name: Of the flag, without dashes; without a value it is ``true``.
    """
    flags = environment.get("XLA_FLAGS", "")
    mentions = re.findall(rf"--{re.escape(name)}(?:=(\S+))?(?=\s|$)", flags)
    return (mentions[-1] or "true") if mentions else None
