"""Settings that only show while a run goes on; older traces have none."""

import numpy as np

from tests.factories.traces import rank_infos, record_tensors
from ttrace.store.reader import open_trace
from ttrace.store.writer import TraceWriter

OUTPUT = {"step0/mb0/a/output/0": np.ones(3, np.float32)}


def test_they_are_added_to_those_of_the_start_and_the_last_one_counts(tmp_path):
    (info,) = rank_infos(settings={"tp": 1})
    with TraceWriter(tmp_path / "t", info, segment_bytes=1) as writer:
        writer.state({"autocast": "off"})
        record_tensors(writer, OUTPUT, info)
        writer.state({"autocast": "bfloat16 on cpu"})
    trace = open_trace(tmp_path / "t")
    assert trace.info.ranks[0].settings == {"tp": 1, "autocast": "bfloat16 on cpu"}
    assert list(map(str, trace.info.tensors)) == list(OUTPUT)


def test_an_index_without_them_is_as_before(tmp_path):
    (info,) = rank_infos(settings={"tp": 1})
    with TraceWriter(tmp_path / "t", info) as writer:
        record_tensors(writer, OUTPUT, info)
    index = next((tmp_path / "t").glob("rank*/index.jsonl")).read_text()
    assert "settings" not in index.splitlines()[0]
    assert open_trace(tmp_path / "t").info.ranks[0].settings == {"tp": 1}
