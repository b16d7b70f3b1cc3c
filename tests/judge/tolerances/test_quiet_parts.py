"""Which blocks are quiet: parts are found, single loud elements are none."""

import numpy as np
import pytest

from ttrace.judge.tolerances.quiet_parts import BlockNoise, find_quiet_part

NUM_RUNS, LENGTH = 3, 192


def blocks(noise: np.ndarray, block_length=2) -> BlockNoise:
    """Of the noise of single elements, ``[runs, elements]``."""
    of_blocks = noise.reshape(len(noise), -1, block_length)
    return BlockNoise(
        block_length=block_length,
        count=block_length,
        norms=np.sqrt((of_blocks**2).sum(axis=-1)),
        maxima=np.abs(of_blocks).max(axis=-1),
        floors=np.full(of_blocks.shape[1], 1e-9),
    )


def gaussian(seed=0):
    return np.random.default_rng(seed).normal(size=(NUM_RUNS, LENGTH))


@pytest.mark.parametrize("seed", range(5))
def test_the_key_part_is_loud(seed):
    noise = 1e-7 * gaussian(seed)
    noise[:, 64:128] *= 1e4
    found = find_quiet_part(blocks(noise))
    assert found is not None
    is_quiet, ratio = found
    assert list(np.flatnonzero(~is_quiet)) == list(range(32, 64))
    assert 3e3 < ratio < 3e4


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("block_length", [2, 32])
def test_parts_that_alternate(num_groups, block_length):
    noise = 1e-7 * gaussian()
    of_keys = noise.reshape(NUM_RUNS, num_groups, 3, -1)[:, :, 1]  # of q, k, v
    of_keys[:] = 1e-3 * np.sign(of_keys)
    found = find_quiet_part(blocks(noise, block_length))
    assert found is not None
    parts = found[0].reshape(num_groups, 3, -1)
    assert parts.all(axis=(0, 2)).tolist() == [True, False, True]
    assert not parts[:, 1].any()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_flips", [1, 3, 10, 20, 60, 120])
def test_single_elements_are_no_part(num_flips, seed):
    """Adam's updates of elements whose gradient is next to nothing."""
    noise = 1e-7 * gaussian(seed)
    rng = np.random.default_rng(seed)
    for of_run in noise:
        of_run[rng.choice(LENGTH, num_flips, replace=False)] = 1e-3
    assert find_quiet_part(blocks(noise[:1])) is None
    assert find_quiet_part(blocks(noise)) is None


def test_a_rare_flip_in_the_quiet_part_belongs_to_its_noise():
    noise = 1e-8 * gaussian()
    noise[:, 64:128] *= 1e6
    noise[1, 3] = 1e-5
    found = find_quiet_part(blocks(noise))
    assert found is not None
    is_quiet, ratio = found
    assert list(np.flatnonzero(~is_quiet)) == list(range(32, 64))
    assert 1e3 < ratio < 2e4  # and not 1e6


@pytest.mark.parametrize("seed", range(20))
def test_elements_that_never_flip_are_no_part(seed):
    """Whose gradient is large: the same ones in every run, here and there."""
    rng = np.random.default_rng(seed)
    flips = rng.random(LENGTH) < 0.6
    noise = np.where(flips, 1e-3 * rng.choice([-1, 0, 1], (NUM_RUNS, LENGTH)), 1e-8)
    assert find_quiet_part(blocks(noise)) is None
    assert find_quiet_part(blocks(noise[:, :32], block_length=1)) is None


def test_less_than_a_hundred_times_is_none():
    noise = 1e-7 * gaussian()
    noise[:, 64:128] *= 50
    assert find_quiet_part(blocks(noise)) is None
    assert find_quiet_part(blocks(0 * noise)) is None


def test_parts_of_few_elements_are_loud_though_three_carry_most_of_their_noise():
    """Key parts of 16, of four heads of Megatron's linear_qkv."""
    noise = 1e-9 * np.sign(gaussian())
    of_keys = noise.reshape(NUM_RUNS, 4, 3, 16)[:, :, 1]
    of_keys *= 1e3
    of_keys[:, 1, :3] *= 5
    found = find_quiet_part(blocks(noise))
    assert found is not None
    parts = found[0].reshape(4, 3, -1)
    assert parts.all(axis=(0, 2)).tolist() == [True, False, True]
    assert not parts[:, 1].any()


def test_a_few_quiet_indices_are_luck():
    noise = 1e-3 * gaussian()
    noise[:, 10:16] = 0
    assert find_quiet_part(blocks(noise)) is None
