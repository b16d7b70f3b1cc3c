"""Runs a function of a test in several JAX processes that share one set of devices."""

import os
import socket
import subprocess
import sys

from tests.paths import ROOT

_START = """
import sys
import jax
address, count, number, module, function, *arguments = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(number))
sys.path.insert(0, {root!r})
getattr(__import__(module, fromlist=["_"]), function)(*arguments)
"""


def run_processes(
    module: str,
    function: str,
    *arguments: object,
    num_processes: int = 2,
    devices_each: int = 4,
    timeout_s: float = 240.0,
) -> None:
    """Calls a function in every process once ``jax.distributed`` is up.

    Args:
        module: Name of the module with the function, such as ``tests.test_x``.
        function: Name of the function.
        *arguments: Passed on as text.
        num_processes: How many processes.
        devices_each: CPU devices of each.
        timeout_s: Seconds after which a process counts as hanging.
    """
    root = str(ROOT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}",
    }
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", _START.format(root=root)),
                *(address, str(num_processes), str(number), module, function),
                *map(str, arguments),
            ],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(num_processes)
    ]
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert not any(codes), f"exit codes {codes}\n" + "\n".join(outputs)
