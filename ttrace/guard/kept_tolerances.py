"""Tolerances that a session of tests measured, kept for the next ones.

Noise runs are most of what a check costs, and belong to the reference: as long as that
computes what it did, they need not be made again. Whether it does is checked by every
comparison (``ttrace.judge.tolerances.same_reference``).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttrace.errors import TraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.judge.tolerances.tolerance import ToleranceTable

_MEASURED_OTHERWISE = ("tolerance", "noise_traces", "reference_trace")
"""Options of a check that say by themselves what noise is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTolerances:
    """The file in which the tolerances of one check are kept.

    Attributes:
        path: The file, which may not be there.
    """

    path: Path

    @classmethod
    def of_check(
        cls, folder: Path, reference: Any, options: Mapping[str, Any]
    ) -> "KeptTolerances | None":
        """Those of the checks of one command with the same options.

        Args:
            folder: Where tolerances are kept.
            reference: Command of the trusted run.
            options: Of the check.

        Returns:
            None where the check measures no noise of the command.
        """
        given = {name: options.get(name) for name in _MEASURED_OTHERWISE}
        if reference is None or any(given.values()) or options.get("draws") == 0:
            return None
        capture = options.get("capture") or CaptureFilter()
        measured_by = [
            reference,
            options.get("draws"),
            options.get("multiplier"),
            capture.to_json(),
            str(options.get("map") or ""),
        ]
        text = json.dumps(measured_by, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(path=folder / f"tolerance-{name}.json")

    def load(self) -> ToleranceTable | None:
        """What is kept; None where nothing is that can be read."""
        try:
            return ToleranceTable.load(self.path)
        except TraceError:
            return None

    def keep(self, measured: Path) -> None:
        """Keeps a file of tolerances, where a check has left one."""
        if measured.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(measured, self.path)
