"""Which dim counts samples: from shapes and dims texts alone."""

import pytest

from ttrace.compare.samples.batch_dims import batch_dim, possible_batch_dims


def dim_of(
    reference: list[tuple[int, ...]],
    candidate: list[tuple[int, ...]],
    sizes: tuple[list[int], list[int]],
    text: str = "",
    other_lengths: frozenset[int] = frozenset(),
    is_in_order: bool = False,
) -> int | str:
    return batch_dim(
        [(shape, text) for shape in reference],
        [(shape, text) for shape in candidate],
        sizes=sizes,
        other_lengths=other_lengths,
        is_in_order=is_in_order,
    )


@pytest.mark.parametrize(
    ("inputs", "dims"),
    [
        # Numbers of positions, beside samples of as many positions.
        ({"0": ((4, 3, 16), ""), "1": ((16,), "")}, [{"0": 0}, {"0": 1}]),
        ({"0": ((4, 16), "n s[cp]"), "1": ((16,), "s[cp]")}, [{"0": 0}]),
        ({"0": ((4, 17), "b s"), "1": ((16,), "s[cp]")}, [{"0": 0}]),
        # A mask without samples, of as many samples as positions.
        (
            {"0": ((16, 16), ""), "mask": ((1, 1, 16, 16), "")},
            [{"0": 0}, {"mask": 0}],
        ),
        # Positions may come first, and one label be for each sample.
        ({"0": ((16, 4), ""), "1": ((4,), "")}, [{"0": 0}, {"0": 1, "1": 0}]),
    ],
)
def test_inputs_agree_on_what_counts_samples(inputs, dims):
    run = {number: inputs for number in range(2)}
    found = [dict(each.dims) for each in possible_batch_dims(run, run)]
    assert found == dims


@pytest.mark.parametrize("dim", range(3))
def test_the_dim_follows_the_sizes_of_the_micro_batches(dim: int):
    def shape(size: int) -> tuple[int, ...]:
        rest = [8, 8]
        rest.insert(dim, size)
        return tuple(rest)

    sizes = ([8], [2, 6])
    assert dim_of([shape(8)], [shape(2), shape(6)], sizes) == dim


@pytest.mark.parametrize(
    ("reference", "candidate", "reason"),
    [
        ((16, 6), (16, 6), "no dim of it counts samples"),
        ((40, 6), (10, 6), "dim 0 of it counts something else than samples"),
        ((8, 8), (2, 2), "more of it than the number of samples differs"),
        ((8, 6), (2, 6, 1), "it has not as many dims in every micro-batch"),
        ((), (), "no dim of it counts samples"),
    ],
)
def test_what_does_not_follow_them_is_not_guessed(reference, candidate, reason):
    assert dim_of([reference], [candidate], ([8], [2])) == reason


def test_of_one_size_a_length_that_occurs_nowhere_else_is_the_dim():
    sizes = ([3], [3])
    lengths = frozenset({5, 6})
    assert dim_of([(5, 3, 6)], [(5, 3, 6)], sizes, other_lengths=lengths) == 1
    assert dim_of([(5, 6)], [(5, 6)], sizes) == "no dim of it counts samples"
    unknown = (
        "which dim of it counts samples is not known: 3 samples in a micro-batch, and "
        "that is also the length of another dim; with a number of samples that is no "
        "length in the model it would be"
    )
    assert dim_of([(3, 3, 6)], [(3, 3, 6)], sizes) == unknown
    assert dim_of([(3, 6)], [(3, 6)], sizes, other_lengths=frozenset({3})) == unknown


def test_of_samples_that_kept_their_order_any_dim_of_their_number_will_do():
    sizes, lengths = ([3], [3]), frozenset({3})
    assert dim_of([(3, 3)], [(3, 3)], sizes, is_in_order=True) == 0
    assert dim_of([(6, 3)], [(6, 3)], sizes, "", lengths, is_in_order=True) == 1
    # Three experts may have one number each, of padding, too.
    assert isinstance(dim_of([(3,)], [(3,)], sizes, "", lengths, is_in_order=True), str)
    assert dim_of([(6,)], [(6,)], sizes, is_in_order=True) == (
        "no dim of it counts samples"
    )


def test_of_one_size_a_dims_text_may_name_it():
    lengths = frozenset({3})
    shape = (3, 3, 6)
    for text, dim in (("s b h[tp]", 1), ("batch s h", 0), ("b[dp] s h", 0)):
        assert dim_of([shape], [shape], ([3], [3]), text, lengths) == dim
    assert isinstance(dim_of([shape], [shape], ([3], [3]), "d0 d1 d2", lengths), str)
    assert isinstance(dim_of([(4, 3)], [(4, 3)], ([3], [3]), "b s", lengths), str)


def possible(reference: dict[str, str], *shapes: dict[str, tuple[int, ...]]):
    """Of runs of one micro-batch each, with the dims texts of the inputs."""
    runs = (
        {0: {slot: (shape, reference[slot]) for slot, shape in of_run.items()}}
        for of_run in shapes
    )
    return [(dict(dims.dims), dims.is_usual) for dims in possible_batch_dims(*runs)]


def test_inputs_that_follow_the_sizes_are_taken_together():
    texts = {"x": "", "mask": "", "position": ""}
    first = {"x": (8, 5), "mask": (8, 1, 5, 5), "position": (5,)}
    second = {"x": (2, 5), "mask": (2, 1, 5, 5), "position": (5,)}
    assert possible(texts, first, second) == [({"x": 0, "mask": 0}, True)]


def test_inputs_that_contradict_each_other_say_nothing():
    first, second = {"x": (8, 5), "y": (4, 5)}, {"x": (2, 5), "y": (2, 5)}
    assert possible({"x": "", "y": ""}, first, second) == []
    first, second = {"x": (8, 5)}, {"x": (2, 4)}
    assert possible({"x": ""}, first, second) == []


def test_of_one_size_the_first_dims_are_tried_or_the_one_that_is_named():
    shapes = {"x": (3, 4, 5), "y": (4, 3)}
    tried = possible({"x": "", "y": ""}, shapes, shapes)
    assert tried == [({"x": 0, "y": 1}, True), ({"x": 1, "y": 0}, True)]
    shapes = {"x": (4, 3)}
    assert possible({"x": "s b"}, shapes, shapes) == [({"x": 1}, True)]
    first, second = {"x": (5, 8)}, {"x": (5, 2)}
    assert possible({"x": ""}, first, second) == [({"x": 1}, False)]


@pytest.mark.parametrize(
    ("text", "dims"),
    [
        ("b s[cp]", [0]),
        ("n s[cp:zigzag]", [0]),
        ("s[cp] b", [1]),
        ("rows[dp] width", [0, 1]),
        ("rows[dp] width[cp]", [0, 1]),
        ("x y", [0, 1]),
    ],
)
def test_a_dim_that_is_cut_behind_a_whole_one_counts_positions(text, dims):
    """Whichever of the runs says so."""
    shape = (4, 3)
    for texts in (("", text), (text, ""), (text, text)):
        runs = ({0: {"x": (shape, one)}} for one in texts)
        assert [dict(found.dims) for found in possible_batch_dims(*runs)] == [
            {"x": dim} for dim in dims
        ]
