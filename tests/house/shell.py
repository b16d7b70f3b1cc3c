"""Runs a command as a reader of the pages types it."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path


def environment() -> dict[str, str]:
    """With the programs of this Python first on the path."""
    scripts = (sysconfig.get_path("scripts"), str(Path(sys.executable).parent))
    return {**os.environ, "PATH": os.pathsep.join((*scripts, os.environ["PATH"]))}


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
