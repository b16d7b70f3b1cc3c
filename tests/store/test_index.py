import json

import pytest

from ttrace.errors import CorruptTraceError
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import whole
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord
from ttrace.store.files import encode_line, hash_bytes
from ttrace.store.index import IndexGroup, StoredShard, decode_groups, encode_group
from ttrace.store.segments import Segment

RANK = 3


def tensor_id(module):
    return TensorId(step=0, module=module, kind=Kind.OUTPUT)


def group(number, num_shards=2, num_skipped=1):
    name = f"segment-{number:05d}.safetensors"
    segment = Segment(name=name, file_bytes=1000, header_bytes=64, header_hash="0" * 16)
    shards = [
        StoredShard(
            record=ShardRecord(
                id=tensor_id(f"g{number}.m{i}"),
                rank=RANK,
                sequence=i,
                dtype="bfloat16",
                layout=whole((2, 3), "dense"),
                scale=0.5,
                exact_replicas=True,
            ),
            segment=name,
            offset=64 + 12 * i,
            nbytes=12,
            hash="1" * 16,
        )
        for i in range(num_shards)
    ]
    skipped = [
        SkippedRecord(
            id=tensor_id(f"g{number}.s{i}"),
            rank=RANK,
            sequence=9,
            reason="no\nrule\r é",
        )
        for i in range(num_skipped)
    ]
    return IndexGroup(
        segment=segment if shards else None,
        shards=tuple(shards),
        skipped=tuple(skipped),
    )


GROUPS = [group(0), group(1, num_skipped=0), group(2, num_shards=0), group(3)]
ENCODED = list(map(encode_group, GROUPS))


def decode(data, path):
    return list(decode_groups(data, rank=RANK, where=path))


def decode_until_error(data, path):
    """The groups before the first error, and whether there was one."""
    found = []
    try:
        for one in decode_groups(data, rank=RANK, where=path):
            found.append(one)
    except CorruptTraceError:
        return found, True
    return found, False


def test_round_trip(tmp_path):
    assert decode(b"".join(ENCODED), tmp_path) == GROUPS
    assert decode(b"", tmp_path) == []


def test_every_line_is_json():
    lines = b"".join(ENCODED).splitlines()
    assert len(lines) == sum(1 + len(g.shards) + len(g.skipped) for g in GROUPS)
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_cut_anywhere_gives_whole_groups_only(tmp_path):
    data = b"".join(ENCODED)
    ends = [sum(map(len, ENCODED[:i])) for i in range(len(ENCODED) + 1)]
    for cut in range(len(data)):
        found, failed = decode_until_error(data[:cut], tmp_path)
        whole_groups = sum(end <= cut for end in ends) - 1
        assert found == GROUPS[:whole_groups]
        assert failed == (cut not in ends)


def test_a_flipped_bit_of_a_record_never_passes(tmp_path):
    head, body = ENCODED[0].split(b"\n", 1)
    for at in range(len(body)):
        altered = bytearray(body)
        altered[at] ^= 1 << (at % 8)
        found, failed = decode_until_error(head + b"\n" + altered, tmp_path)
        assert failed and found == []


@pytest.mark.parametrize(
    "change",
    [
        {"segment": "../rank00000/segment-00000.safetensors"},
        {"segment": "segment-00009.safetensors"},
        {"offset": 0},
        {"offset": 990},
        {"offset": -1},
        {"nbytes": 13},
        {"nbytes": "12"},
        {"dtype": "object"},
        {"id": "nonsense"},
        {"layout": None},
        {"xxh3_64": None, "layout": {}},
    ],
    ids=str,
)
def test_a_record_that_makes_no_sense_is_refused(tmp_path, change):
    """Hashes stop accidents; this stops a forged index."""
    head, line, *_ = (json.loads(line) for line in ENCODED[0].splitlines())
    line |= change
    body = encode_line(line)
    head |= {"num_lines": 1, "lines_xxh3_64": hash_bytes(body)}
    with pytest.raises(CorruptTraceError, match="cut off or was altered"):
        decode(encode_line(head) + body, tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "segment-1", 5])
def test_a_segment_outside_the_folder_is_refused(tmp_path, name):
    head, line, *_ = (json.loads(line) for line in ENCODED[0].splitlines())
    head["segment"]["name"] = line["segment"] = name
    body = encode_line(line)
    head |= {"num_lines": 1, "lines_xxh3_64": hash_bytes(body)}
    with pytest.raises(CorruptTraceError):
        decode(encode_line(head) + body, tmp_path)


def test_the_message_names_the_line(tmp_path):
    path = tmp_path / "index.jsonl"
    with pytest.raises(CorruptTraceError) as error:
        decode(ENCODED[0] + ENCODED[1][:-5], path)
    assert str(error.value) == (
        "an index is cut off or was altered\n"
        f"  where:    {path}, line 5\n"
        "  got:      the next 2 lines are not whole\n"
        "  to do:    record the run again, or copy the trace again from where it was "
        "written"
    )
