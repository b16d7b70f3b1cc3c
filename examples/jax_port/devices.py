"""Devices for a mesh: the machine's own, or parts of the host's CPU."""

import contextlib

import jax

from ttrace.errors import UsageError


def provide_devices(count: int) -> None:
    """Sees to it that JAX has so many devices.

    Without accelerators the CPU is divided, as
    ``XLA_FLAGS=--xla_force_host_platform_device_count`` does; that works before JAX is
    used for the first time in a process.

    Raises:
        UsageError: There are fewer.
    """
    with contextlib.suppress(RuntimeError):  # JAX is in use, or the flag is set
        jax.config.update("jax_num_cpu_devices", max(count, 8))
    if len(jax.devices()) < count:
        raise UsageError(
            "there are fewer devices than the mesh has places",
            where="--mesh",
            expected=f"at least {count}",
            got=f"{len(jax.devices())} of {jax.default_backend()}",
            remedy="choose a smaller mesh, or set XLA_FLAGS="
            f"--xla_force_host_platform_device_count={count} for CPU",
        )
