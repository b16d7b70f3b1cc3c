import hashlib
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrace.errors import LayoutError, UsageError
from ttrace.generate import (
    Bell,
    Integers,
    Uniform,
    bell_values,
    generate,
    generate_region,
    generate_shard,
    hash_key,
    hash_words,
    integers_below,
    uniform_values,
)
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Region, whole
from ttrace.testing import cut, meshes

NAME = "step0/decoder/param/weight"
DISTRIBUTIONS = [
    Uniform(),
    Uniform(scale=0.25, offset=1.0),
    Bell(scale=2.0),
    Integers(low=-3, high=50_000),
]
LARGE = (1024, 512)


def hex_values(values: np.ndarray) -> list[str]:
    return [value.hex() for value in values.tolist()]


def lowbias32(x: int) -> int:
    """The finalizer once more, in Python integers."""
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def word_of(name: str, index: int, stream: int = 0) -> int:
    digest = hashlib.blake2b(f"0/{name}".encode(), digest_size=8).digest()
    first = int.from_bytes(digest[:4], "little")
    second = int.from_bytes(digest[4:], "little")
    high, low = divmod(index, 2**32)
    tail = lowbias32(((high ^ second) + stream * 0x9E3779B9) % 2**32)
    return lowbias32((lowbias32(low ^ first) + tail) % 2**32)


def test_golden_values():
    assert hex_values(generate(NAME, Uniform(), (4,))) == [
        "-0x1.b38d280000000p-3",
        "0x1.3145f40000000p-2",
        "0x1.4146f20000000p-1",
        "-0x1.3f90300000000p-4",
    ]
    assert hex_values(generate(NAME, Bell(scale=0.125, offset=1.0), (4,))) == [
        "0x1.ed14800000000p-1",
        "0x1.20e2c00000000p+0",
        "0x1.1268800000000p+0",
        "0x1.d92cc00000000p-1",
    ]
    tokens = generate(NAME, Integers(high=50_000), (6,))
    assert tokens.tolist() == [19683, 32452, 40687, 23049, 10298, 30163]


def test_golden_values_beyond_32_bits_of_index():
    across = Region(start=(2**33 - 2,), extent=(4,))
    assert hex_values(generate_region("big", Uniform(), across, (2**34,))) == [
        "0x1.3924340000000p-2",
        "-0x1.51aaa60000000p-1",
        "0x1.feb4480000000p-3",
        "0x1.d955fa0000000p-1",
    ]


@given(st.text(max_size=20), st.integers(0, 2**60))
def test_every_value_follows_from_name_and_index(name, index):
    one = Region(start=(index,), extent=(1,))
    shape = (2**61,)
    word, more = word_of(name, index), word_of(name, index, stream=1)
    (uniform,) = generate_region(name, Uniform(), one, shape).tolist()
    assert uniform == (2 * (word >> 8) + 1 - 2**24) / 2**24
    (bell,) = generate_region(name, Bell(), one, shape).tolist()
    halves = (word >> 16, word % 2**16, more >> 16, more % 2**16)
    assert bell == sum((half - (2**16 - 1) / 2) / 2**16 for half in halves)
    (integer,) = generate_region(name, Integers(low=-5, high=95), one, shape).tolist()
    assert integer == -5 + (word * 100 >> 32)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1), st.integers(1, 2**32 - 1))
def test_multiply_high_in_32_bits(words, bound):
    found = integers_below(np.array(words, dtype=np.uint32), bound)
    assert found.dtype == np.uint32
    assert found.tolist() == [word * bound >> 32 for word in words]


def test_jax_gives_the_same_bits():
    low = np.arange(5000, dtype=np.uint32)
    high = np.array([3], dtype=np.uint32)
    key = hash_key(NAME)
    words, more = hash_words(high, low, key), hash_words(high, low, key, stream=1)
    jax_words = hash_words(jnp.asarray(high), jnp.asarray(low), key)
    jax_more = hash_words(jnp.asarray(high), jnp.asarray(low), key, stream=1)
    for expected, found in (
        (words, jax_words),
        (uniform_values(words), uniform_values(jax_words)),
        (bell_values(words, more), bell_values(jax_words, jax_more)),
        (integers_below(words, 50_257), integers_below(jax_words, 50_257)),
    ):
        np.testing.assert_array_equal(np.asarray(found), expected, strict=True)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@given(st.data())
def test_a_region_is_that_slice_of_the_tensor(distribution, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    start = tuple(data.draw(st.integers(0, length)) for length in shape)
    stop = [
        data.draw(st.integers(s, length))
        for s, length in zip(start, shape, strict=True)
    ]
    extent = tuple(b - a for a, b in zip(start, stop, strict=True))
    part = generate_region(
        NAME, distribution, Region(start=start, extent=extent), shape
    )
    full = generate(NAME, distribution, shape)
    np.testing.assert_array_equal(
        part, full[(*map(slice, start, stop), ...)], strict=True
    )


def test_tensors_made_in_many_pieces():
    shape = (3, 70_000, 2)
    full = generate(NAME, Uniform(), shape)
    flat = generate(NAME, Uniform(), (math.prod(shape),))
    np.testing.assert_array_equal(full.reshape(-1), flat)
    part = Region(start=(1, 123, 0), extent=(2, 68_000, 1))
    np.testing.assert_array_equal(
        generate_region(NAME, Uniform(), part, shape), full[1:, 123:68_123, :1]
    )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize(
    "text", ["f[tp:parts(2)] h", "f[tp:zigzag,dp:chunk] h", "(f[tp] h)[dp:chunk]"]
)
def test_shards_are_those_of_the_tensor(distribution, text):
    full = generate(NAME, distribution, (16, 7))
    for mesh in meshes("m", {"tp": 2, "dp": 3}):
        layout = parse_dims(text).lower((16, 7), mesh)
        local = generate_shard(NAME, distribution, layout)
        np.testing.assert_array_equal(local, cut(full, layout), strict=True)


def test_padding_is_zero():
    mesh = meshes("m", {"tp": 2})[1]
    layout = parse_dims("v[tp:padded(4)] h").lower((6, 2), mesh)
    local = generate_shard(NAME, Uniform(), layout)
    assert local.shape == (4, 2)
    assert (local[:2] != 0).all() and (local[2:] == 0).all()


def test_dtypes_and_empty_tensors():
    assert generate(NAME, Uniform(), ()).dtype == np.float32
    assert generate(NAME, Integers(high=2), ()).dtype == np.int64
    assert generate(NAME, Bell(), (3, 0)).shape == (3, 0)


def test_name_and_seed_set_tensors_apart():
    base = generate(NAME, Uniform(), (1000,))
    for other in (
        generate(NAME + "s", Uniform(), (1000,)),
        generate(NAME, Uniform(), (1000,), seed=1),
    ):
        assert (base != other).mean() > 0.99
    np.testing.assert_array_equal(base, generate(NAME, Uniform(), (1000,), seed=0))


def test_scale_and_offset_are_exact():
    base = generate(NAME, Bell(), LARGE)
    np.testing.assert_array_equal(
        generate(NAME, Bell(scale=2.0**-30), LARGE), base / 2**30
    )
    shifted = generate(NAME, Bell(scale=0.5, offset=1.0), LARGE)
    one_rounding = (base.astype(np.float64) * 0.5 + 1.0).astype(np.float32)
    np.testing.assert_array_equal(shifted, one_rounding)


# Statistics of fixed values: they cannot fail by chance, only by a change of the hash.


def deviation(counts: np.ndarray, probabilities: np.ndarray | float) -> float:
    """Chi-square of counts, in standard deviations from what chance gives."""
    expected = counts.sum() * np.broadcast_to(probabilities, counts.shape)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return abs(chi_square - freedom) / math.sqrt(2 * freedom)


def irwin_hall_cdf(x: np.ndarray) -> np.ndarray:
    """Distribution function of the sum of four values uniform over 0 to 1."""
    terms = [(-1) ** k * math.comb(4, k) * np.maximum(x - k, 0) ** 4 for k in range(5)]
    return np.sum(terms, axis=0) / math.factorial(4)


@pytest.mark.parametrize("kind", [Uniform, Bell])
@pytest.mark.parametrize("name", ["a", "b", "step0/mb1/embedding/output/0"])
def test_mean_and_standard_deviation(kind, name):
    values = generate(name, kind(scale=4.0), LARGE).astype(np.float64)
    expected_std = 4.0 / math.sqrt(3)
    assert abs(values.mean()) < 4 * expected_std / math.sqrt(values.size)
    assert values.std() == pytest.approx(expected_std, rel=3e-3)
    bound = 4.0 if kind is Uniform else 8.0
    assert 0.9 * bound < np.abs(values).max() < bound


def test_uniform_values_are_uniform():
    values = generate("a", Uniform(), LARGE).reshape(-1)
    counts, _ = np.histogram(values, bins=256, range=(-1, 1))
    assert deviation(counts, 1 / len(counts)) < 3.5
    assert (values != 0).all()


def test_bell_values_have_the_shape_of_a_sum_of_four():
    values = generate("a", Bell(), (1 << 20,))
    counts, edges = np.histogram(values, bins=40, range=(-1.8, 1.8))
    probabilities = np.diff(irwin_hall_cdf(edges + 2))
    assert counts.sum() > 0.99 * values.size
    assert deviation(counts, probabilities / probabilities.sum()) < 3.5


@pytest.mark.parametrize("bound", [2, 7, 50_257])
def test_integers_are_uniform(bound):
    values = generate("a", Integers(low=10, high=10 + bound), (1 << 20,))
    counts = np.bincount(values - 10, minlength=bound)
    assert len(counts) == bound
    assert deviation(counts, 1 / len(counts)) < 3.5


@pytest.mark.parametrize("shift", [0, 1, 8, 16, 24])
def test_the_bits_of_a_word_are_uniform(shift):
    low = np.arange(1 << 20, dtype=np.uint32)
    words = hash_words(np.zeros(1, np.uint32), low, hash_key("a"))
    counts = np.bincount((words >> np.uint32(shift)) & np.uint32(0xFF), minlength=256)
    assert deviation(counts, 1 / len(counts)) < 3.5


def test_neighbours_and_names_are_not_correlated():
    shape = (700, 700)
    tensors = [generate(name, Uniform(), shape) for name in ("a", "b", "layers.0.w")]
    tensors.append(generate("a", Uniform(), shape, seed=1))
    limit = 4.5 / math.sqrt(shape[0] * shape[1])
    for values in tensors:
        for lag in (1, 2, 3, 16, 64, 128, 256, 512, 700, 1024, 4096, 65_536):
            flat = values.reshape(-1)
            found = np.corrcoef(flat[lag:], flat[:-lag])[0, 1]
            assert abs(found) < limit * math.sqrt(flat.size / (flat.size - lag))
    together = np.corrcoef([values.reshape(-1) for values in tensors])
    assert np.abs(together - np.eye(len(tensors))).max() < limit


def test_pairs_of_neighbours_fill_the_square():
    flat = generate("a", Integers(high=32), (1 << 20,))
    counts = np.bincount(flat[::2] * 32 + flat[1::2], minlength=1024)
    assert deviation(counts, 1 / len(counts)) < 3.5


def test_each_input_bit_flips_half_of_the_output_bits():
    low = np.arange(4096, dtype=np.uint32) * np.uint32(2654435761)
    high = np.zeros(1, np.uint32)
    key = hash_key("a")
    words = hash_words(high, low, key)
    for bit in range(32):
        mask = np.uint32(1 << bit)
        for flipped in (
            hash_words(high, low ^ mask, key),
            hash_words(high ^ mask, low, key),
        ):
            flips = [((words ^ flipped) >> np.uint32(b) & 1).mean() for b in range(32)]
            assert 0.44 < min(flips) and max(flips) < 0.56


@pytest.mark.parametrize("kind", [Uniform, Bell])
@pytest.mark.parametrize("scale", [0.0, -1.0, 0.02, 3.0, math.inf, math.nan, 2.0**101])
def test_a_scale_that_is_not_a_power_of_two(kind, scale):
    with pytest.raises(UsageError) as error:
        kind(scale=scale)
    assert str(error.value) == (
        "the scale of a generated tensor is not a power of two\n"
        "  expected: 2^k with k from -100 to 100: any other factor rounds, and "
        "frameworks round differently\n"
        f"  got:      {scale}\n"
        "  to do:    take the nearest power of two"
    )


@pytest.mark.parametrize("offset", [0.1, 1e300, math.inf, math.nan])
def test_an_offset_that_float32_does_not_hold(offset):
    with pytest.raises(UsageError) as error:
        Uniform(offset=offset)
    assert str(error.value) == (
        "the offset of a generated tensor is not a float32 number\n"
        "  expected: a number that float32 holds exactly, such as 1.0 or 0.5\n"
        f"  got:      {offset}\n"
        "  to do:    round it to float32 first"
    )


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 2), (0, 2**31), (-(2**32), 0)])
def test_integers_out_of_bounds(low, high):
    with pytest.raises(UsageError) as error:
        Integers(low=low, high=high)
    assert str(error.value) == (
        "not a range of integers\n"
        "  expected: -2^31 <= low < high < 2^31\n"
        f"  got:      [{low}, {high})\n"
        "  to do:    give bounds that a 32-bit integer holds"
    )


def test_the_widest_range_of_integers():
    values = generate("a", Integers(low=-(2**31), high=2**31 - 1), (1000,))
    assert values.min() < -(2**30) and values.max() > 2**30


def test_partial_tensors_are_refused():
    with pytest.raises(LayoutError) as error:
        generate_shard(NAME, Uniform(), whole((4,), "m", partial_axes=("tp", "cp")))
    assert str(error.value) == (
        "a partial tensor cannot be generated\n"
        f"  where:    {NAME}\n"
        "  expected: a layout without partial axes\n"
        "  got:      partial over tp, cp\n"
        "  to do:    generate the reduced tensor"
    )


@pytest.mark.parametrize(
    ("start", "extent"), [((0, 1), (2, 4)), ((-1, 0), (1, 1)), ((0,), (1,))]
)
def test_a_region_outside_the_tensor(start, extent):
    region = Region(start=start, extent=extent)
    with pytest.raises(LayoutError, match="a region reaches outside its tensor"):
        generate_region(NAME, Uniform(), region, (2, 4))
