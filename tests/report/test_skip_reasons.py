"""Reasons to skip tensors, in few lines."""

from ttrace.report.skip_reasons import grouped_reasons


def test_reasons_that_differ_in_numbers_and_names_are_one():
    reasons = {
        "reference: ignored by the map: holds what layers.*.n1/output/0 holds": 4,
        "1 micro-batch of 8 samples, padded to 7 to 11 positions": 9,
        "reference: ignored by the map: holds what layers.*.ff/output/0 holds": 6,
        "1 micro-batch of 8 samples, padded to 12 positions": 9,
        "candidate: ignored by the map: holds what layers.*.ff/output/0 holds": 5,
    }
    assert grouped_reasons(reasons) == [
        (
            "1 micro-batch of 8 samples, padded to 7 to 11 positions (and 1 more like "
            "it, with other names or numbers)",
            18,
        ),
        (
            "reference: ignored by the map: holds what layers.*.ff/output/0 holds (and "
            "1 more like it, with other names or numbers)",
            10,
        ),
        ("candidate: ignored by the map: holds what layers.*.ff/output/0 holds", 5),
    ]


def test_one_reason_is_given_as_it_is():
    assert grouped_reasons({"step 3 overflowed": 2}) == [("step 3 overflowed", 2)]
    assert grouped_reasons({}) == []


def test_one_of_the_tensors_is_named():
    reasons = {"step 3 overflowed": 2, "step 4 overflowed": 5, "no layout rule": 1}
    examples = {"step 3 overflowed": "a", "step 4 overflowed": "b"}
    assert grouped_reasons(reasons, examples) == [
        (
            "step 4 overflowed (and 1 more like it, with other names or numbers), "
            "e.g. b",
            7,
        ),
        ("no layout rule", 1),
    ]
