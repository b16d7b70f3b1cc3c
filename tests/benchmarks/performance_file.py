"""``docs/performance.json``: what each benchmark measured last, under its name."""

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA_VERSION = 1


def write_section(path: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Puts the figures of one benchmark in place of its earlier ones.

    The file is ``{"schema_version", "sections": {name: {"conditions", "figures"}}}``;
    sections of other benchmarks stay as they are.

    Args:
        path: The file; made where it is missing.
        name: Of the benchmark.
        figures: What it measured: JSON values.

    Raises:
        ValueError: The file is there and of another schema.
    """
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "sections": {}}
    if path.exists():
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"{path} is not of schema version {SCHEMA_VERSION}")
    document["sections"][name] = {"conditions": conditions(), "figures": figures}
    document["sections"] = dict(sorted(document["sections"].items()))
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def conditions() -> dict[str, Any]:
    """The machine, and how busy others keep it: a load above its processors tells that
    times, and CPU seconds too where processors share a core, are too long."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "loop_cpu_s": round(loop_cpu_s(), 3),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def loop_cpu_s() -> float:
    """CPU seconds of a fixed loop of Python, by which other figures can be compared."""
    start = time.thread_time()
    kept: dict[int, tuple[int, str]] = {}
    for number in range(1_000_000):
        kept[number & 1023] = (number, str(number))
    return time.thread_time() - start
