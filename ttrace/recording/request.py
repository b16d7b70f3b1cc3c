"""The environment variables through which the CLI speaks to a frontend.

They are the only channel: one training script serves plain, recorded, perturbed and
rewritten runs unchanged, and does nothing more when they are absent.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ttrace.errors import UsageError
from ttrace.ir.capture_filter import CaptureFilter

RECORD_VARIABLE = "TTRACE_RECORD"
"""Holds everything, as one JSON object; absent or empty in a plain run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRequest:
    """What a frontend is asked to do with the run it finds itself in.

    Attributes:
        out: Folder of the trace.
        run_id: Shared by all processes of the run.
        capture: Which tensors to record.
        noise_seed: Seed of the noise to inject, or None for none.
        noise_dtype: Dtype whose roundings the noise stands for, where that is coarser
            than a tensor's own; None for the latter.
        rewrite: Folder of a trace whose values take the place of the run's own: of
            each input of a module, and of each gradient of an output, that it holds
            for a rank. None leaves all values alone.
    """

    out: Path
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    capture: CaptureFilter = field(default_factory=CaptureFilter)
    noise_seed: int | None = None
    noise_dtype: str | None = None
    rewrite: Path | None = None

    def to_environment(self) -> dict[str, str]:
        """The variables to set for the command."""
        value = {
            "out": str(self.out),
            "run_id": self.run_id,
            "capture": self.capture.to_json(),
            "perturbation": self.noise_seed,
            "noise_dtype": self.noise_dtype,
            "rewrite": None if self.rewrite is None else str(self.rewrite),
        }
        return {RECORD_VARIABLE: json.dumps(value)}


def request_from_environment(environment: Mapping[str, str]) -> RecordRequest | None:
    """What the CLI asked for, or None in a plain run.

    Raises:
        UsageError: The variable was set by hand, or by another version.
    """
    text = environment.get(RECORD_VARIABLE, "")
    if not text:
        return None
    try:
        value = json.loads(text)
        return RecordRequest(
            out=Path(value["out"]),
            run_id=value["run_id"],
            capture=CaptureFilter.from_json(value["capture"]),
            noise_seed=value["perturbation"],
            noise_dtype=value.get("noise_dtype"),
            rewrite=Path(value["rewrite"]) if value.get("rewrite") else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{RECORD_VARIABLE} does not hold what 'ttrace record' puts there",
            got=text,
            remedy="unset it, and start the command through 'ttrace record'",
        ) from error
