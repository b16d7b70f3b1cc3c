"""Whether a disk is full: what fails then often cannot say so itself."""

import os
from pathlib import Path


def is_full(path: Path) -> bool:
    """Whether nothing more can be written where a file or folder is."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail == 0
