"""A verdict says how many activations its map leaves out."""

from tests.factories.mapped_models import IGNORED, LOSS, compare


def test_activations_that_are_ignored_are_counted_by_side():
    reference = {"step0/a/param/w": LOSS}
    candidate = {"step0/a/param/w": LOSS}
    for step in range(2):
        reference[f"step{step}/mb0/x/output/0"] = LOSS
        reference[f"step{step}/mb0/x/grad_output/0"] = LOSS
        candidate[f"step{step}/mb0/y/input/0"] = LOSS
        candidate[f"step{step}/mb0/y/output/0"] = LOSS
    text = IGNORED.format(side="reference", pattern="x/*")
    text += IGNORED.format(side="candidate", pattern="y/*")
    setup = compare(text, reference, candidate).setup.map
    assert setup is not None
    assert setup.num_left_out_reference == 2 and setup.num_left_out_candidate == 4
