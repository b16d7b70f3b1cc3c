"""Keeps what jax compiled for the next run of the ``ttrace`` program.

Not for library use: jax has one cache for a process, and that of a training script is
its owner's to set up.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import jax


def keep_compiled(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Lets jax read compiled kernels from the user's cache folder, and write them.

    Args:
        environment: Of the process; ``XDG_CACHE_HOME`` is looked at, and ``HOME``.

    Returns:
        The folder; None, and nothing is changed, where the user has set up a cache of
        jax, or switched it off, or the folder cannot be written.
    """
    if (
        jax.config.values["jax_compilation_cache_dir"] is not None
    ):  # by the environment, too
        return None
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    folder = _folder(environment)
    if folder is None or not _can_be_written(folder):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # What another process is just writing cannot be read yet: jax compiles it then.
    warnings.filterwarnings(
        "ignore",
        "Error (reading|writing) persistent compilation cache entry",
        UserWarning,
    )
    # The kernels are small, and take less than the second from which on jax keeps one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A full disk, or an entry that another process is writing, costs a compilation.
    warnings.filterwarnings(
        "ignore", message="Error (reading|writing) persistent compilation cache"
    )
    return folder


def _folder(environment: Mapping[str, str]) -> Path | None:
    """Of this kind of processor: a home may be shared by machines of several kinds."""
    base = environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # to be ignored, says the XDG specification
        home = environment.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return Path(base) / "ttrace" / "jax" / _processor()


def _processor() -> str:
    """What tells processors of unlike instructions apart, as far as it is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    text = "\n".join([os.uname().machine, *told])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
