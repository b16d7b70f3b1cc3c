"""Parts that are no single range: joined by a map, by dims text, found in noise."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.parts import Part
from ttrace.ir.layout import Region
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.revisions.known_parts import known_parts
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.noise_profile import NoiseProfile
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

MODULE = "attn"
KINDS = ("param", "main_grad", "updated_param")
RATE, DECAY = 1e-3, 0.3
NAMES = "qkv"


@dataclass(frozen=True)
class Joined:
    """Query, key and value (or the first two) of 4 heads of 8, joined in some way.

    ``axes`` are those of the joined dim: n of the parts, h of heads, d of each; what
    the parts are in is ``h d``. ``order`` is that of the parts.
    """

    axes: str
    order: str
    width: int = 0

    @property
    def transform(self) -> str:
        width = " w" if self.width else ""
        return f"h d{width} -> ({' '.join(self.axes)}){width}"

    def join(self, parts) -> np.ndarray:
        stacked = np.stack([parts[name] for name in self.order])
        order = ["nhd".index(axis) for axis in self.axes]
        rest = range(3, stacked.ndim)
        joined = stacked.transpose(*order, *rest)
        return np.ascontiguousarray(joined.reshape(-1, *joined.shape[3:]))

    def map_file(self, folder):
        candidates = [f"{name}/{{kind}}/b" for name in self.order]
        path = folder / "map.toml"
        path.write_text(
            "version = 1\n[[tensor]]\n"
            f'reference = "{MODULE}/{{kind}}/bias"\ncandidate = {candidates}\n'
            f'transform = "{self.transform}"\njoin = "n"\n'
        )
        return read_map(path)

    def indices_of(self, name) -> np.ndarray:
        parts = {
            n: np.full((4, 8, *([1] if self.width else [])), n == name)
            for n in self.order
        }
        return np.flatnonzero(self.join(parts))


def step_of_adam(joined, seed, decay=()) -> dict[str, dict[str, np.ndarray]]:
    """One step on every part: of the key, whose gradient is rounding, it is noise."""
    shape = (4, 8, joined.width) if joined.width else (4, 8)
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    for name in NAMES:
        start = fixed.normal(scale=0.1, size=shape).astype(np.float32)
        gradient = fixed.uniform(0.5, 1.5, shape) * fixed.choice([-1, 1], shape)
        if name == "k":
            gradient = rng.normal(scale=1e-9, size=shape)
        gradient *= 1 + 3e-8 * rng.normal(size=shape)
        after = start - np.float32(RATE) * np.sign(gradient)
        after *= 1 + 3e-8 * rng.normal(size=shape)
        if name in decay:
            after -= RATE * DECAY * start
        parts["param"][name] = start
        parts["main_grad"][name] = gradient.astype(np.float32)
        parts["updated_param"][name] = after.astype(np.float32)
    return parts


def fused(joined, seed, *, noise=False, dims=None, sizes=None, decay=()):
    tensors = {
        f"step0/{MODULE}/{kind}/bias": Tensor(full=joined.join(parts), dims=dims)
        for kind, parts in step_of_adam(joined, seed, decay).items()
    }
    return memory_trace(tensors, sizes, noise_seed=seed if noise else None)


def split(joined, seed, decay=()):
    return memory_trace(
        {
            f"step0/{name}/{kind}/b": parts[name]
            for kind, parts in step_of_adam(joined, seed, decay).items()
            for name in joined.order
        }
    )


def measured(joined, number=3, **options) -> ToleranceTable:
    return estimate_tolerance(
        fused(joined, 0, **options),
        [fused(joined, seed, noise=True, **options) for seed in range(1, number + 1)],
        load_backend("numpy"),
    )


def compare(reference, candidate, table, map_file=None) -> Report:
    backend = load_backend("numpy")
    return compare_traces(
        reference, candidate, backend, tolerances=table, map_file=map_file
    )


WAYS = [
    Joined(axes=axes, order=order)
    for axes in ("nhd", "hnd", "hdn")
    for order in ("qkv", "vkq", "kq")
]


@pytest.mark.parametrize("is_measured", [True, False])
@pytest.mark.parametrize("joined", [*WAYS, Joined(axes="hnd", order="qkv", width=3)])
def test_a_decay_of_a_joined_part_shows_behind_noise(joined, is_measured, tmp_path):
    map_file = joined.map_file(tmp_path)
    table = measured(joined, number=1) if is_measured else None
    reference = fused(joined, 0)
    for seed in range(10, 15):
        report = compare(reference, split(joined, seed), table, map_file)
        assert report.verdict is Outcome.PASS, report.summary
    report = compare(reference, split(joined, 10, decay="q"), table, map_file)
    (tensor,) = report.failed()
    assert tensor.id == f"step0/{MODULE}/updated_param/bias"
    assert tensor.failed_part is not None
    part = Part.of_indices(0, joined.indices_of("q"))
    assert tensor.failed_part.name == f"{part} (q/b)"
    assert tensor.rel_err is not None and tensor.tolerance is not None
    assert tensor.rel_err < tensor.tolerance  # as a whole it passes
    (diagnosis,) = report.diagnosis
    assert diagnosis.code == "weight_decay"
    assert f"{MODULE}/bias, its part {part} (q/b)" in diagnosis.sentence
    decay = float(diagnosis.evidence["learning_rate_x_weight_decay"])
    assert math.isclose(decay, RATE * DECAY, rel_tol=0.05)


def test_all_parts_that_fail_are_named(tmp_path):
    joined = Joined(axes="hnd", order="qkv")
    candidate = split(joined, 10, decay="qv")
    report = compare(
        fused(joined, 0), candidate, measured(joined), joined.map_file(tmp_path)
    )
    (tensor,) = report.failed()
    assert "(q/b)" in tensor.reason and "(v/b)" in tensor.reason
    assert "and likewise" in tensor.reason and "(k/b)" not in tensor.reason


@pytest.mark.parametrize("joined", [*WAYS, Joined(axes="hnd", order="qkv", width=3)])
def test_groups_that_are_alike_show_without_a_map(joined):
    """Both runs hold it joined: where parts lie shows in the noise of one run."""
    table = measured(joined)
    reference = fused(joined, 0)
    for seed in range(10, 15):
        report = compare(reference, fused(joined, seed), table)
        assert report.verdict is Outcome.PASS, report.summary
    report = compare(reference, fused(joined, 10, decay="q"), table)
    (tensor,) = report.failed()
    quiet = sorted(
        index
        for name in joined.order
        if name != "k"
        for index in joined.indices_of(name)
    )
    assert tensor.failed_part is not None
    assert tensor.failed_part.name == str(Part.of_indices(0, np.array(quiet)))


@pytest.mark.parametrize("dims", ["f[tp:parts(3)]", "f[tp:parts(32,32,32)]"])
@pytest.mark.parametrize("is_measured", [True, False])
def test_parts_of_dims_text(dims, is_measured):
    joined = Joined(axes="nhd", order="qkv")
    options = {"dims": dims, "sizes": {"tp": 2}}
    reference, table = fused(joined, 0), measured(joined) if is_measured else None
    report = compare(reference, fused(joined, 10, **options), table)
    assert report.verdict is Outcome.PASS, report.summary
    report = compare(reference, fused(joined, 10, decay="v", **options), table)
    (tensor,) = report.failed()
    assert tensor.failed_part is not None
    assert tensor.failed_part.name == "64:96 of dim 0"


def test_a_file_keeps_profiles(tmp_path):
    joined = Joined(axes="hnd", order="qkv")
    table = measured(joined)
    noise = table.noise[parse_tensor_id(f"step0/{MODULE}/updated_param/bias")]
    (profile,) = noise.profiles
    assert profile.block_length == 1 and len(profile.reference_norms) == 96
    table.save(tmp_path / "tolerance.json")
    assert ToleranceTable.load(tmp_path / "tolerance.json") == table


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_profile_tells_the_noise_of_any_part(data):
    length = data.draw(st.integers(2, 24))
    noise = np.random.default_rng(length).normal(size=(2, length))
    profile = NoiseProfile.of(
        dim=1, block_length=1, draws=abs(noise), reference_norms=abs(noise[0])
    )
    chosen = data.draw(st.sets(st.integers(0, length - 1), min_size=1))
    part = Part.of_indices(1, np.array(sorted(chosen)))
    norms = profile.norms_of(part)
    assert norms is not None
    expected = np.linalg.norm(noise[:, sorted(chosen)], axis=1)
    np.testing.assert_allclose(norms[0], expected, rtol=1e-2)
    assert math.isclose(norms[1], expected[0], rel_tol=1e-2)


def test_a_profile_of_blocks_tells_of_whole_blocks_alone():
    profile = NoiseProfile.of(
        dim=0, block_length=2, draws=np.array([[3.0, 4, 0]]), reference_norms=np.ones(3)
    )
    assert profile.norms_of(Part(dim=0, ranges=((0, 4),))) == ((5.0,), math.sqrt(2))
    for ranges in (((0, 3),), ((1, 4),), ((4, 8),)):
        assert profile.norms_of(Part(dim=0, ranges=ranges)) is None
    assert profile.norms_of(Part(dim=1, ranges=((0, 4),))) is None


@pytest.mark.parametrize("draws", [[[1.0, math.nan]], [[1.0]], []])
def test_a_profile_with_gaps_is_refused(draws):
    with pytest.raises(ValueError, match="noise of blocks"):
        NoiseProfile(
            dim=0,
            block_length=1,
            draws=tuple(map(tuple, draws)),
            reference_norms=(1.0, 2.0),
        )


def test_tensors_that_overlap_along_a_dim_are_no_parts_of_it():
    record = memory_trace({"step0/m/param/w": np.zeros((4, 6), np.float32)}).info
    record = record.tensors[parse_tensor_id("step0/m/param/w")]
    a, b = (parse_tensor_id(f"step0/{name}/param/w") for name in "ab")
    joined = [
        (Region(start=(0, 0), extent=(4, 3)), a),
        (Region(start=(0, 3), extent=(4, 3)), b),
    ]
    assert known_parts(joined, record) == [
        Part(dim=1, ranges=((0, 3),)),
        Part(dim=1, ranges=((3, 6),)),
    ]
    joined[1] = (Region(start=(2, 2), extent=(2, 4)), b)
    assert known_parts(joined, record) == []
