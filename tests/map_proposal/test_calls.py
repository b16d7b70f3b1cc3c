"""Modules whose calls are not alike."""

import numpy as np

from tests.factories.ports import Pair
from tests.factories.traces import memory_trace
from tests.map_proposal.test_proposing import propose
from ttrace.ir.side import Side
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.calls import by_calls
from ttrace.map_proposal.recorded_activations import Activations, Instance
from ttrace.report.model import Outcome


def calls_of(pair: Pair) -> list[tuple[int | None, int | None]]:
    sides = {
        Side.REFERENCE: Activations(memory_trace(pair.reference)),
        Side.CANDIDATE: Activations(memory_trace(pair.candidate)),
    }
    modules = [(Instance(module="a"), Instance(module="b"))]
    found = by_calls(modules, Agreements(sides))
    return [(own.call, other.call) for own, other in found]


def called(*shapes: tuple[int, ...]) -> Pair:
    pair = Pair()
    for call, shape in enumerate(shapes):
        name = f"/call{call}" if call else ""
        array = pair.values(*shape)
        pair.add(f"mb0/a/output/0{name}", f"mb0/b/output/0{name}", array)
    return pair


def test_calls_of_one_shape_share_a_rule():
    assert calls_of(called((3, 5, 4), (3, 5, 4))) == [(None, None)]
    assert calls_of(called((3, 5, 4))) == [(None, None)]


def test_calls_of_several_shapes_have_one_each():
    assert calls_of(called((3, 5, 4), (3, 7, 4))) == [(0, 0), (1, 1)]


def test_of_several_modules_of_a_path_the_one_that_gives_the_same():
    pair = called((3, 5, 4))
    inner = pair.candidate["step0/mb0/b/output/0"]
    pair.candidate["step0/mb0/b/output/0/call1"] = inner
    pair.candidate["step0/mb0/b/output/0"] = pair.values(3, 5, 8)
    assert calls_of(pair) == [(None, 1)]
    pair.candidate["step0/mb0/b/output/0"] = inner
    assert calls_of(pair) == [(None, None)]


def test_a_module_that_shares_its_path():
    """An outer module gives heads apart, the inner one of the same path together."""
    pair = Pair()
    weight = pair.values(6, 4)
    pair.add("top.fc/param/weight", "m/param/kernel", weight, weight.T)
    output, other = pair.values(3, 5, 6), pair.values(3, 5, 9)
    pair.reference["step0/mb0/top.fc/output/0"] = output
    pair.reference["step0/mb0/top/output/0"] = other
    pair.candidate["step0/mb0/m/output/0/call1"] = output.reshape(3, 5, 2, 3)
    pair.candidate["step0/mb0/m/output/0"] = other
    loss = np.ones((), np.float32)
    pair.add("@root/loss", "@root/loss", loss)
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert proposal.dropped == () and not proposal.map_file.ignored
    assert report.counts.passed == 4


def test_a_module_called_with_several_shapes():
    pair = Pair()
    weight = pair.values(6, 4)
    pair.add("fc/param/weight", "m/param/kernel", weight, weight.T)
    for call, length in enumerate((5, 7)):
        name = f"/call{call}" if call else ""
        output = pair.values(3, length, 6)
        made = output.reshape(3, length, 2, 3)
        pair.add(f"mb0/fc/output/0{name}", f"mb0/m/output/0{name}", output, made)
    pair.add("@root/loss", "@root/loss", np.ones((), np.float32))
    proposal, report = propose(pair.reference, pair.candidate)
    assert report.verdict is Outcome.PASS, report.summary
    assert proposal.dropped == () and not proposal.map_file.ignored
    assert report.counts.passed == 4
