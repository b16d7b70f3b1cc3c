"""Where the report of a check lies, and which file is meant by its folder."""

import os
from pathlib import Path

from ttrace.errors import TraceNotFoundError
from ttrace.store.files import MANIFEST

REPORT_FILE = "report.json"
"""In the folder of a check."""


def report_path(given: str | os.PathLike[str]) -> Path:
    """The file of a report that is given by it, or by the folder of the check.

    Raises:
        TraceNotFoundError: It is a folder without a report, or a trace.
    """
    path = Path(given)
    if not path.is_dir():
        return path
    file = path / REPORT_FILE
    if not file.is_file() and any(path.glob(f"*/{MANIFEST}")):
        raise TraceNotFoundError(
            "this is a trace, and no report",
            where=path,
            remedy="make a report of two traces with 'ttrace compare', which takes the "
            "same options; or give the report that one was written to",
        )
    if not file.is_file():
        raise TraceNotFoundError(
            f"there is no {REPORT_FILE} in this folder",
            where=path,
            remedy="give the folder of --out of 'ttrace check', or the file that "
            "--json of another command wrote",
        )
    return file
