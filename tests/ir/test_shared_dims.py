"""A dim that neighbours on an axis share: what they hold, and what they add up to."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.compare.covers import cover
from ttrace.errors import LayoutError
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.layout import Mesh
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome
from ttrace.testing import meshes

ID = "step0/mb0/a/grad_input/1"
FULL = np.arange(1, 9, dtype=np.float32).reshape(4, 2)


def held(text: str, sizes: dict[str, int]) -> list[list[float]]:
    """First element of each row that a rank holds, rank by rank."""
    layouts = [parse_dims(text).lower((4, 2), mesh) for mesh in meshes("dense", sizes)]
    return [
        [FULL[block.region.start[0] + row, 0] for row in range(block.region.extent[0])]
        for layout in layouts
        for block in layout.blocks
    ]


@pytest.mark.parametrize(
    ("holders", "rows"),
    [
        (1, [[1], [3], [5], [7]]),
        (2, [[1, 3], [1, 3], [5, 7], [5, 7]]),
        (4, [[1, 3, 5, 7]] * 4),
    ],
)
def test_neighbours_hold_the_same_rows(holders, rows):
    text = f"n[tp:shared({holders})] d"
    assert held(text, {"tp": 4}) == rows
    dims = parse_dims(text)
    assert str(dims) == text
    for mesh in meshes("dense", {"tp": 4}):
        local = dims.lower((4, 2), mesh)
        assert dims.lower_local(local.local_shape, mesh) == local


def test_it_splits_what_other_axes_leave():
    rows = [[1], [1], [3], [3], [5], [5], [7], [7]]
    assert held("n[cp,tp:shared(2)] d", {"cp": 2, "tp": 4}) == rows


def test_an_axis_that_such_groups_do_not_divide():
    with pytest.raises(LayoutError) as caught:
        parse_dims("n[tp:shared(3)] d").lower((4, 2), meshes("dense", {"tp": 4})[0])
    assert str(caught.value) == (
        "an axis cannot be divided into neighbours of that number\n"
        "  where:    dim n[tp:shared(3)] of length 4, axis tp of mesh dense\n"
        "  expected: a divisor of the axis's size, 4\n"
        "  got:      shared(3)\n"
        "  to do:    correct the number in the dims text"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n[tp:shared]", "a modifier with the wrong numbers"),
        ("n[tp:shared(0)]", "a modifier with the wrong numbers"),
        ("n[tp:shared(1,2)]", "a modifier with the wrong numbers"),
        ("n[tp:shared(2)] d[tp]", "the same axis appears twice"),
        ("n[tp:shared(2)] partial[tp,tp]", "the same axis appears twice"),
        ("n[tp] partial[tp]", "the same axis appears twice"),
    ],
)
def test_malformed_text_is_refused(text, message):
    with pytest.raises(LayoutError, match=message):
        parse_dims(text)


class TestPartial:
    """``partial`` over a shared axis: each group of neighbours has its own sum."""

    TEXT = "n[tp:shared(2)] d partial[tp]"

    def test_each_group_adds_up(self):
        layout = self.layout(meshes("dense", {"tp": 4})[0])
        assert (layout.partial_axes, layout.num_partials) == (("tp",), 2)
        assert layout.dims == self.TEXT == str(parse_dims(self.TEXT))

    @pytest.mark.parametrize("sizes", [{"tp": 4}, {"dp": 2, "tp": 4}, {"tp": 2}])
    def test_sums_of_the_groups_are_the_tensor(self, sizes):
        report = self.compare(sizes)
        assert report.verdict is Outcome.PASS
        assert report.tensors[0].num_elements == FULL.size

    def test_an_addend_that_is_wrong_is_found(self):
        assert self.compare({"tp": 4}, factor=2).verdict is Outcome.DIVERGED

    def test_an_addend_that_is_missing_leaves_its_group_uncovered(self):
        trace = memory_trace(
            {ID: Tensor(full=FULL, dims=self.TEXT, holders=(0, 1, 3))}, {"tp": 4}
        )
        (record,) = trace.info.tensors.values()
        covered = cover(record, trace.info)
        assert covered.missing_partials and covered.num_uncovered == FULL.size // 2

    def test_other_axes_multiply_the_addends(self):
        (mesh, *_) = meshes("dense", {"cp": 3, "tp": 4})
        dims = parse_dims("n[tp:shared(2)] d partial[cp,tp]")
        assert dims.lower((4, 2), mesh).num_partials == 6

    def layout(self, mesh: Mesh):
        return parse_dims(self.TEXT).lower(FULL.shape, mesh)

    def compare(self, sizes, factor=1):
        """Every neighbour holds a half of what they share; rank 0 ``factor`` times."""
        candidate = memory_trace({ID: Tensor(full=FULL, dims=self.layout)}, sizes)
        for info in candidate.info.ranks:
            mesh = info.mesh("dense")
            (block,) = self.layout(mesh).blocks
            rows = slice(block.region.start[0], block.region.stop[0])
            share = FULL[rows] / np.float32(2)
            scaled = share * np.float32(1 if info.rank else factor)
            candidate.arrays[info.rank, ID] = scaled
        reference = memory_trace({ID: FULL})
        return compare_traces(reference, candidate, load_backend("numpy"))
