import pytest

from ttrace.frontends.jax_parts.record import environment
from ttrace.frontends.jax_parts.record.environment import (
    allows_excess_precision,
    xla_flag,
)
from ttrace.ir.trace import MODEL_SETTINGS


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ("", None),
        ("--xla_other=1", None),
        ("--xla_some_flag", "true"),
        ("--xla_some_flag=false", "false"),
        ("--xla_some_flag=1 --xla_b --xla_some_flag=0", "0"),
        ("--xla_some_flag_too=1", None),
    ],
)
def test_the_last_mention_of_a_flag_counts(flags, value):
    assert xla_flag({"XLA_FLAGS": flags}, "xla_some_flag") == value


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ("", True),
        ("--xla_allow_excess_precision", True),
        ("--xla_allow_excess_precision=true", True),
        ("--xla_allow_excess_precision=False", False),
        ("--xla_allow_excess_precision=0", False),
    ],
)
def test_excess_precision_is_allowed_unless_a_flag_forbids_it(flags, allowed):
    assert allows_excess_precision({"XLA_FLAGS": flags}) is allowed


def test_versions_name_what_computes():
    assert {"python", "jax", "jaxlib"} <= environment.versions().keys()


@pytest.mark.parametrize(
    ("stated", "precision"),
    [
        (None, "highest"),  # what CPUs do
        ("default", "highest"),
        ("highest", "highest"),
        ("tensorfloat32", "high"),
        ("bfloat16", "medium"),
        ("F16_F16_F32", "F16_F16_F32"),
    ],
)
def test_matmul_precision_is_said_in_the_words_of_torch(monkeypatch, stated, precision):
    class Config:
        jax_default_matmul_precision = stated
        jax_enable_x64 = False
        jax_threefry_partitionable = True

    monkeypatch.setattr(environment.jax, "config", Config)
    settings = environment.settings(strict=False)
    assert settings["float32_matmul_precision"] == precision
    assert "float32_matmul_precision" in MODEL_SETTINGS


def test_strict_programs_have_no_excess_precision(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    values = [
        environment.settings(strict=strict)["xla_allow_excess_precision"]
        for strict in (False, True)
    ]
    assert values == [True, False]
