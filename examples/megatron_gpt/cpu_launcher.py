"""Runs a Megatron script that was written for GPUs, unchanged, on a CPU.

``python -m ttrace.examples.megatron_gpt.cpu_launcher SCRIPT.py ARGUMENT...``, or
``-m MODULE`` in place of the script, also under torchrun. On a machine with a GPU the
script simply runs.

A script of one's own names devices where the example of this package asks for them:
``.to("cuda")``, ``init_process_group("nccl")``. Both are redirected here.
"""

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from ttrace.errors import UsageError
from ttrace.examples.megatron_gpt import cpu_devices, warnings_of_megatron


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script as Python would have run it.

    Args:
        argv: The script, or ``-m`` and a module, and its arguments; those of the
            process if None.

    Returns:
        Exit status: 0, or 2 where no script is named. A script that fails raises what
        it raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        is_module, script = _script(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    warnings_of_megatron.quiet()
    if not torch.cuda.is_available():
        cpu_devices.install()
        redirect_scripts()
    sys.argv = arguments[1:] if is_module else arguments
    if is_module:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
        runpy.run_path(script, run_name="__main__")
    return 0


def _script(arguments: Sequence[str]) -> tuple[bool, str]:
    is_module = arguments[:1] == ["-m"]
    names = arguments[is_module:]
    if not names or names[0].startswith("-"):
        raise UsageError(
            "no script is named",
            where="ttrace.examples.megatron_gpt.cpu_launcher",
            expected="SCRIPT.py ARGUMENT..., or -m MODULE ARGUMENT...",
            got=" ".join(arguments) or "nothing",
            remedy="name the script to run",
        )
    if not is_module and not os.path.isfile(names[0]):
        raise UsageError(
            "there is no such script",
            where=names[0],
            expected="a Python file",
            remedy="correct the path",
        )
    return is_module, names[0]


def redirect_scripts() -> None:
    """Lets moves to a GPU end on the CPU, and groups for GPUs be gloo's.

    For the life of the process; a second call does nothing.
    """
    if getattr(dist.init_process_group, "_is_ttrace_stand_in", False):
        return
    torch.Tensor.to = _staying(torch.Tensor.to)
    torch.nn.Module.to = _staying(torch.nn.Module.to)
    init_process_group = dist.init_process_group

    def init_with_gloo(backend: str | None = None, *args, **kwargs) -> None:
        kwargs.pop("device_id", None)  # of a GPU
        is_for_gpus = backend is not None and "nccl" in backend
        init_process_group("gloo" if is_for_gpus else backend, *args, **kwargs)

    setattr(init_with_gloo, "_is_ttrace_stand_in", True)  # noqa: B010
    dist.init_process_group = init_with_gloo


def _staying(move: Callable[..., Any]) -> Callable[..., Any]:
    def place(value: Any) -> Any:
        is_index = isinstance(value, int) and not isinstance(value, bool)
        is_gpu = isinstance(value, str | torch.device) and "cuda" in str(value)
        return torch.device("cpu") if is_index or is_gpu else value

    def move_or_stay(self, *args, **kwargs):
        # Only the first argument can be a device; the others are flags and dtypes.
        places = [place(argument) for argument in args[:1]]
        if "device" in kwargs:
            kwargs["device"] = place(kwargs["device"])
        return move(self, *places, *args[1:], **kwargs)

    return move_or_stay


if __name__ == "__main__":
    sys.exit(main())
