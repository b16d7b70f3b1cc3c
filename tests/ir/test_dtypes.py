import ml_dtypes
import numpy as np
import pytest

from ttrace.errors import DtypeError
from ttrace.ir.dtypes import DTYPES, dtype_named, units_per_step


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda dtype: dtype.name)
def test_names_are_those_of_numpy(dtype):
    assert dtype.numpy.name == dtype.name
    assert np.dtype(dtype.name) == dtype.numpy
    assert dtype_named(dtype.name) is dtype


def test_safetensors_codes_differ_and_state_the_width():
    codes = [dtype.safetensors for dtype in DTYPES.values()]
    assert len(set(codes)) == len(codes)
    for dtype in DTYPES.values():
        digits = "".join(c for c in dtype.safetensors.split("_")[0] if c.isdigit())
        assert dtype.numpy.itemsize * 8 == int(digits or 8)


def test_epsilon_is_the_spacing_at_one():
    spacing = {
        "float64": 2.0**-52,
        "float32": 2.0**-23,
        "float16": 2.0**-10,
        "bfloat16": 2.0**-7,
        "float8_e4m3fn": 2.0**-3,
        "float8_e5m2": 2.0**-2,
    }
    for name, dtype in DTYPES.items():
        assert dtype.epsilon == spacing.get(name)
    one = np.array(1, dtype=ml_dtypes.bfloat16)
    assert float(np.nextafter(one, np.array(2, one.dtype)) - one) == spacing["bfloat16"]


def test_an_unknown_dtype():
    with pytest.raises(DtypeError) as error:
        dtype_named("complex64")
    assert str(error.value) == (
        "this dtype cannot be stored in a trace\n"
        f"  expected: one of {', '.join(DTYPES)}\n"
        "  got:      complex64\n"
        "  to do:    cast the tensor, or leave it out with a filter"
    )


@pytest.mark.parametrize(
    ("name", "noise_dtype", "units"),
    [
        ("float32", None, 1),
        ("float32", "bfloat16", 2**15),
        ("float32", "float16", 2**12),
        ("float64", "bfloat16", 2**44),
        ("bfloat16", "bfloat16", 1),
        ("bfloat16", "float16", 1),
        ("int32", "bfloat16", 1),
    ],
)
def test_noise_of_a_coarser_dtype_is_half_of_its_step(name, noise_dtype, units):
    assert units_per_step(name, noise_dtype) == units
