"""Numbers of layers that start elsewhere in the other run."""

from ttrace.map_proposal.layer_numbers import Shift, likely_shifts, segments


def test_a_number_behind_an_underscore_is_a_segment():
    assert segments("h_0.attn.q_proj") == ["h", "0", "attn", "q_proj"]


def test_layers_with_an_offset():
    pairs = [(f"h.{i}.fc", f"{i + 1}.0.1") for i in range(3)]
    assert likely_shifts(pairs) == [Shift(reference=1, candidate=0, offset=1)]
    (shift,) = likely_shifts(pairs)
    assert shift.family("h.4.fc", "5.0.1") == ("h.#.fc", "#.0.1")
    assert shift.family("h.4.fc", "6.0.1") is None
    assert shift.family("out", "5") is None


def test_one_layer_tells_nothing():
    assert likely_shifts([("h.0.fc", "1.0")]) == []
