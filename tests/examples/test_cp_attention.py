"""The zig-zag order of the example's attention under context parallelism."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from ttrace.examples.megatron_gpt.cp_attention import zigzag_positions  # noqa: E402
from ttrace.ir.dims_text import parse_dims  # noqa: E402
from ttrace.ir.layout import Mesh  # noqa: E402


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_rank_holds_what_the_layout_says(size):
    for rank in range(size):
        mesh = Mesh(name="dense", sizes={"cp": size}, coords={"cp": rank})
        layout = parse_dims("s[cp:zigzag]").lower((16,), mesh)
        held = [
            position
            for block in layout.blocks
            for position in range(block.region.start[0], block.region.stop[0])
        ]
        assert zigzag_positions(16, size, rank).tolist() == held
