"""The two runs of a comparison."""

from enum import StrEnum


class Side(StrEnum):
    """One of the two runs."""

    REFERENCE = "reference"
    CANDIDATE = "candidate"
