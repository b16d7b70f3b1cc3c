"""Positions that ranks cut otherwise than a dims text says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace, write_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.written_dims import written_settings
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report

SAMPLES, POSITIONS = 4, 16

EVEN = np.arange(POSITIONS)
ZIGZAG = np.r_[0:4, 12:16, 4:8, 8:12]
"""The positions of two ranks one behind the other, where they are cut zig-zag."""

STRIDED = np.r_[0:16:2, 1:16:2]


def batch(number: int) -> np.ndarray:
    shape = (SAMPLES, POSITIONS)
    return np.random.default_rng(number).integers(0, 64, shape, dtype=np.int64)


def run(
    text: str = "",
    order: np.ndarray = EVEN,
    *,
    batches: Sequence[np.ndarray] | None = None,
    rules: str = "",
    folder: Path | None = None,
    has_numbers: bool = False,
) -> TraceSource:
    """Tokens and position ids, as ranks hold them that cut positions in an order.

    With ``has_numbers`` the latter are not given for each sample.
    """
    tensors: dict[str, Tensor | np.ndarray] = {}
    positions = np.broadcast_to(np.arange(POSITIONS), (SAMPLES, POSITIONS))
    given = [batch(0), batch(1)] if batches is None else batches
    dims = text or None
    for number, tokens in enumerate(given):
        here = f"step0/mb{number}/@root"
        for slot, values in enumerate((tokens, positions[: len(tokens)])):
            full = values[:, order].copy()
            tensors[f"{here}/input/{slot}"] = Tensor(full=full, dims=dims)
        if has_numbers:
            of_positions = dims and dims.partition(" ")[2]
            tensors[f"{here}/input/1"] = Tensor(full=EVEN[order], dims=of_positions)
        hidden = np.tanh(tokens[:, order, None] * np.linspace(0.01, 0.02, 3))
        hidden_dims = f"{text} h" if text else None
        tensors[f"{here}/output/0"] = Tensor(full=hidden, dims=hidden_dims)
    tensors["step0/net/main_grad/weight"] = np.ones(3)
    settings = written_settings(activations={rules: text}) if rules else {}
    sizes = {"cp": 2} if text else None
    if folder is not None:
        return write_trace(folder, tensors, sizes, settings=settings)
    return memory_trace(tensors, sizes, settings=settings)


def compared(reference: TraceSource, candidate: TraceSource) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


MOVED = (
    "Set-up differs: in step 0 both runs were given the same samples, but put together "
    "by its dims text `{text}` @root/input/0 of the {side} has the values of each "
    "sample at other positions along s. "
)
END = "; nothing else of this comparison can be told before."


@pytest.mark.parametrize(
    ("text", "order", "fitting"),
    [("b s[cp]", ZIGZAG, "b s[cp:zigzag]"), ("n s[cp]", ZIGZAG, "n s[cp:zigzag]")],
)
def test_a_text_that_does_not_fit_is_said_with_the_one_that_does(text, order, fitting):
    report = compared(run(), run(text, order, rules="*"))
    assert (report.verdict, report.error_kind) == (Outcome.ERROR, "setup")
    assert report.summary == (
        f"{MOVED.format(text=text, side='candidate')}`{fitting}` fits: write that cut "
        f'for the pattern "*" of activations, and for all others that cut s{END}'
    )
    assert not report.diagnosis


@pytest.mark.parametrize("text", ["b s[cp]", "n s[cp]"])
def test_numbers_of_positions_are_not_taken_for_samples(text):
    candidate = run(text, ZIGZAG, rules="*", has_numbers=True)
    report = compared(run(has_numbers=True), candidate)
    assert (report.verdict, report.error_kind) == (Outcome.ERROR, "setup")
    assert report.summary.startswith(MOVED.format(text=text, side="candidate"))
    right = run(text.replace("cp", "cp:zigzag"), EVEN, has_numbers=True)
    assert compared(run(has_numbers=True), right).verdict is Outcome.PASS


def test_recorded_traces_are_read_in_the_other_layout_too(tmp_path: Path):
    candidate = run("b s[cp]", ZIGZAG, rules="*", folder=tmp_path / "candidate")
    report = compared(run(folder=tmp_path / "reference"), candidate)
    assert "`b s[cp:zigzag]` fits" in report.summary


def test_a_text_may_say_zig_zag_of_what_is_cut_evenly():
    report = compared(run(), run("b s[cp:zigzag]", np.argsort(ZIGZAG), rules="*"))
    assert "`b s[cp]` fits" in report.summary


def test_no_text_is_named_where_none_fits():
    report = compared(run(), run("b s[cp]", STRIDED, rules="*"))
    assert report.summary == (
        f"{MOVED.format(text='b s[cp]', side='candidate')}Correct the text of the "
        'pattern "*" of activations, or how the script cuts its inputs' + END
    )


def test_texts_of_a_frontend_are_not_the_users_to_mend():
    text = "b s[cp:zigzag]"
    report = compared(run(), run(text, np.argsort(ZIGZAG)))
    assert report.summary == (
        f"{MOVED.format(text=text, side='candidate')}The script cuts it as `b s[cp]` "
        f"says: cut its inputs as `{text}` says{END}"
    )


def test_the_reference_may_be_the_one():
    report = compared(run("b s[cp]", ZIGZAG, rules="*"), run())
    assert report.summary.startswith(MOVED.format(text="b s[cp]", side="reference"))


def test_samples_may_be_in_other_micro_batches_too():
    both = np.concatenate([batch(0), batch(1)])
    split = [both[:2], both[2:4], both[4:6], both[6:]]
    report = compared(
        run(batches=[both[:4], both[4:]]),
        run("b s[cp]", ZIGZAG, batches=split, rules="*"),
    )
    assert "`b s[cp:zigzag]` fits" in report.summary


def test_a_text_that_fits_is_no_set_up_difference():
    assert compared(run(), run("b s[cp]", rules="*")).verdict is Outcome.PASS
    others = [batch(2), batch(3)]
    report = compared(run(), run("b s[cp]", batches=others, rules="*"))
    assert report.error_kind == "setup" and "dims text" not in report.summary
