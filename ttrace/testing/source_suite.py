"""Conformance of a trace source: what it says it holds is what it gives."""

import itertools
from typing import ClassVar, Protocol

import numpy as np

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import ShardRecord, TraceInfo
from ttrace.ir.views import block_view
from ttrace.testing.suite import Suite


class Source(Protocol):
    """What is read of a source."""

    @property
    def info(self) -> TraceInfo:
        """Everything it holds but the arrays."""
        ...

    def load(self, shard: ShardRecord) -> np.ndarray:
        """The values of a shard."""
        ...


class TraceSourceSuite(Suite):
    """Subclass it, and let ``source`` return the source, opened anew each time.

    Attributes:
        min_tensors: A source that holds fewer shows too little.
    """

    min_tensors: ClassVar[int] = 3

    def source(self) -> Source:
        """The source, opened anew: what it lies on must not be made anew."""
        raise NotImplementedError("return the trace source under test")

    def underlying(self) -> object:
        """What the source lies on, in a form that compares, e.g. bytes of its files.

        None, if nothing lies below.
        """
        return None

    def test_it_holds_something(self) -> None:
        info = self.source().info
        assert len(info.tensors) >= self.min_tensors, (
            f"the source holds {len(info.tensors)} tensors, which shows too little"
        )
        assert any(shard.layout.local_shape for shard in _shards(info)), (
            "no shard of the source has a dim"
        )

    def test_ids_are_consistent(self) -> None:
        for id_, record in self.source().info.tensors.items():
            assert record.id == id_, f"{id_}: its record has the id {record.id}"
            assert record.shards, f"{id_}: no rank holds it"
            for shard in record.shards:
                assert shard.id == id_, f"{id_}: a shard has the id {shard.id}"
            assert parse_tensor_id(str(id_)) == id_, f"{id_} is not read back"

    def test_ranks_are_consistent(self) -> None:
        info = self.source().info
        ranks = [rank.rank for rank in info.ranks]
        assert ranks == sorted(set(ranks)), f"ranks are not in order: {ranks}"
        known = {rank.rank: rank for rank in info.ranks}
        for id_, record in info.tensors.items():
            held = [shard.rank for shard in record.shards]
            assert held == sorted(set(held)), f"{id_}: shards of ranks {held}"
            assert set(held) <= known.keys(), f"{id_}: ranks {held} of {ranks}"
            for shard in record.shards:
                names = [mesh.name for mesh in known[shard.rank].meshes]
                assert shard.layout.mesh in names, (
                    f"{id_}: rank {shard.rank} knows no mesh {shard.layout.mesh!r}"
                )

    def test_shards_agree_on_the_whole_shape(self) -> None:
        for id_, record in self.source().info.tensors.items():
            shapes = {shard.layout.global_shape for shard in record.shards}
            assert len(shapes) == 1, f"{id_}: shards say {shapes}"

    def test_nothing_is_held_and_skipped(self) -> None:
        info = self.source().info
        both = [str(id_) for id_ in info.skipped if id_ in info.tensors]
        assert not both, f"held and skipped: {', '.join(both)}"
        for id_, skipped in info.skipped.items():
            assert skipped.id == id_, f"{id_}: its note has the id {skipped.id}"
            assert skipped.reason.strip(), f"{id_} is skipped for no reason"

    def test_every_shard_is_loadable(self) -> None:
        source = self.source()
        for shard in _shards(source.info):
            array = source.load(shard)
            assert isinstance(array, np.ndarray), (
                f"{_place(shard)}: a {type(array).__name__} was loaded"
            )

    def test_dtypes_are_those_of_the_records(self) -> None:
        source = self.source()
        for shard in _shards(source.info):
            dtype = source.load(shard).dtype
            assert dtype == dtype_named(shard.dtype).numpy, (
                f"{_place(shard)}: {dtype} was loaded, the record says {shard.dtype}"
            )

    def test_shapes_are_those_of_the_records(self) -> None:
        source = self.source()
        for shard in _shards(source.info):
            shape, layout = source.load(shard).shape, shard.layout
            assert shape == layout.local_shape, (
                f"{_place(shard)}: {list(shape)} was loaded, the record says "
                f"{list(layout.local_shape)}"
            )

    def test_every_block_can_be_seen(self) -> None:
        source = self.source()
        for shard in _shards(source.info):
            array = source.load(shard)
            for block in shard.layout.blocks:
                view = block_view(array, shard.layout, block)
                assert view.shape == block.region.extent, (
                    f"{_place(shard)}: a block of {list(block.region.extent)} "
                    f"has {list(view.shape)}"
                )

    def test_loading_twice_gives_the_same(self) -> None:
        source = self.source()
        for shard in _shards(source.info):
            first, second = source.load(shard), source.load(shard)
            assert first.tobytes() == second.tobytes(), (
                f"{_place(shard)}: loaded twice, two results"
            )

    def test_order_of_loading_does_not_matter(self) -> None:
        forward, backward = self.source(), self.source()
        shards = _shards(forward.info)
        content = [forward.load(shard).tobytes() for shard in shards]
        found = [backward.load(s).tobytes() for s in reversed(_shards(backward.info))]
        for shard, one, other in zip(shards, content, reversed(found), strict=True):
            assert one == other, f"{_place(shard)}: the order of loading shows"

    def test_what_was_loaded_stays(self) -> None:
        """An array that a caller still holds is not reused for the next one."""
        source = self.source()
        loaded = [source.load(shard) for shard in _shards(source.info)]
        again = self.source()
        for shard, array in zip(_shards(again.info), loaded, strict=True):
            assert array.tobytes() == again.load(shard).tobytes(), (
                f"{_place(shard)}: what was loaded changed while others were"
            )

    def test_reading_changes_nothing(self) -> None:
        before = self.underlying()
        source = self.source()
        info = repr(source.info)
        for shard in _shards(source.info):
            source.load(shard)
        assert repr(source.info) == info, "the info is another one after loading"
        assert self.underlying() == before, "what the source lies on was changed"

    def test_two_openings_say_the_same(self) -> None:
        first, second = self.source().info, self.source().info
        assert first == second, "opened twice, the source says two things of itself"


def _shards(info: TraceInfo) -> list[ShardRecord]:
    records = info.tensors.values()
    return list(itertools.chain.from_iterable(record.shards for record in records))


def _place(shard: ShardRecord) -> str:
    return f"{shard.id}, rank {shard.rank}"
