"""The report on a terminal: key sentences, and nothing lost in narrow ones."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.factories.reports import FAILED, PASSED, a_culprit, some_report
from ttrace.report.model import Counts, KindCoverage, Outcome, TensorReport
from ttrace.report.text import Detail, print_report
from ttrace.testing.report_samples import failed_tensor


def rendered(report, width=200, **options):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_report(report, console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def squeezed(text):
    """Without blanks, line ends and table rules, which only a layout puts there."""
    return "".join(char for char in text if char.isascii() and not char.isspace())


def test_everything_a_reader_needs():
    report = some_report()
    text = rendered(report, json_path=Path("out/report.json"))
    for sentence in (
        "verdict: diverged\n",
        report.summary,
        "1 passed, 1 failed, 1 unmatched, 1 skipped of 4 tensors; largest margin inf",
        "numpy backend",
        "skipped 1: candidate: no layout rule",
        "compared in part, as 1 of 2 ranks of the candidate were recorded: 1 tensor, "
        "by what these ranks have in common; record without --ranks to compare all of "
        "them",
        "uncalibrated tolerances, from dtype and depth and not from noise",
        f"diagnosis: {report.diagnosis[0].sentence}",
        "settings that differ: torch 2.6.0 -> 2.7.0, tp 1 -> 2",
        "first failed tensors",
        "unmatched tensors",
        "only in the reference",
        "report: out/report.json",
    ):
        assert sentence in text, sentence


def test_one_place_says_only_what_follows_from_it():
    text = rendered(some_report(culprits=(a_culprit(),)))
    assert "the first divergence explains 7 of 9 failed tensors\n" in text
    assert a_culprit().sentence not in text
    alone = a_culprit(explains={"main_grad": 1}, share="the only failed tensor")
    assert "explains" not in rendered(some_report(culprits=(alone,)))
    elsewhere = a_culprit(id=PASSED.id)
    text = rendered(some_report(culprits=(elsewhere,)))
    assert f"place: {elsewhere.sentence}\n" in text


def test_several_places_come_before_the_figures():
    culprits = (a_culprit(), a_culprit(id=PASSED.id, sentence="output 0 of a: wrong"))
    text = rendered(some_report(culprits=culprits))
    assert (
        f"2 independent places:\n1. {culprits[0].sentence}\n2. output 0 of a: wrong\n"
        "1 passed, 1 failed" in text
    )
    many = tuple(a_culprit(id=f"step{number}/a/output") for number in range(14))
    assert "12. " in rendered(some_report(culprits=many))
    assert "\nand 2 more\n" in rendered(some_report(culprits=many))


def test_nothing_is_lost_in_narrow_terminals():
    report, width = some_report(), 80
    text = squeezed(rendered(report, width))
    assert max(map(len, rendered(report, width).splitlines())) <= width
    for sentence in (
        report.summary,
        report.diagnosis[0].sentence,
        "step0/mb0/decoder.layers.7.mlp/output/0",
    ):
        assert squeezed(sentence) in text, sentence
    # Within a table a line holds pieces of several cells, each in one column.
    table = rendered(report, width).split("first failed tensors")[1]
    rows = [line.split("│") for line in table.splitlines() if "│" in line]
    cells = [
        "".join(row[column].strip() for row in rows if len(row) > 6)
        for column in (1, 5)
    ]
    assert FAILED.id in cells[0]
    assert squeezed(FAILED.reason) in squeezed(cells[1])


def test_markup_in_names_is_text():
    tensor = replace(
        FAILED, id="step0/[bold]x[/bold]/output/0", reason="[red]why[/red]"
    )
    text = rendered(some_report(tensors=(tensor,), summary="[link=x]s[/link]"))
    assert tensor.id in text and "[red]why[/red]" in text
    assert "[link=x]s[/link]" in text


def test_a_verdict_that_rests_on_no_measured_noise_says_so_beside_it():
    report = some_report(tensors=(PASSED,))
    assert rendered(report).startswith("verdict: diverged (uncalibrated)\n")
    assert not some_report().is_uncalibrated  # one tolerance was measured


def test_pass_is_short():
    counts = Counts(
        total=1, passed=1, failed=0, unmatched=0, skipped=0, skipped_reasons={}
    )
    calibrated = replace(PASSED, tolerance_from="perturbed", num_elements=12, part=None)
    setup = replace(some_report().setup, differences={})
    report = some_report(
        verdict=Outcome.PASS, summary="All agree.", counts=counts, diagnosis=(),
        tensors=(calibrated,), first_divergence=None, setup=setup, coverage={},
    )  # fmt: skip
    assert rendered(report).splitlines() == [
        "verdict: pass",
        "All agree.",
        "1 passed, 0 failed, 0 unmatched, 0 skipped of 1 tensors; largest margin 0.25 "
        "(error / tolerance); numpy backend",
        "runs: the reference on 1 rank; the candidate on 2 ranks (tp 2)",
    ]


@pytest.mark.parametrize("backend", ["cpu", "jax"])
def test_the_usual_backends_are_not_named(backend):
    text = rendered(some_report(backend=backend))
    assert "(error / tolerance)\n" in text and "backend" not in text


def test_an_optimizer_that_was_not_recorded_is_missed():
    sentence = "no updated_param was recorded, so what the optimizer does was not"
    report = some_report()
    assert sentence in rendered(report)
    updates = KindCoverage(compared=1, skipped=0, unmatched=0, total=1)
    whole = {**report.coverage, "updated_param": updates}
    assert sentence not in rendered(replace(report, coverage=whole))
    assert sentence not in rendered(replace(report, coverage={"output": updates}))
    run = replace(report.setup.reference, capture={"kinds": "main_grad"})
    setup = replace(report.setup, reference=run)
    assert sentence not in rendered(replace(report, setup=setup))


def test_every_reason_of_a_part_has_a_sentence_of_its_own():
    tensors = (PASSED, *(replace(PASSED, part="rows") for _ in range(2)))
    text = rendered(some_report(tensors=tensors), 300)
    recorded = "compared in part, as 1 of 2 ranks of the candidate were recorded: "
    remedy = "; record without --ranks to compare all of them"
    assert f"{recorded}1 tensor, by what these ranks have in common{remedy}" in text
    assert (
        f"{recorded}2 tensors, by the rows that these ranks have in common, where rows "
        f"depend on data{remedy}"
    ) in text


def test_set_up_tensors_are_named():
    setup = replace(some_report().setup, tensors=("step0/a/param/weight", "other"))
    text = rendered(some_report(setup=setup))
    assert "2 initial parameters or inputs differ, first step0/a/param/weight" in text


def test_long_tables_are_cut_and_say_so():
    failed = tuple(replace(FAILED, id=f"step0/m{n}/output/0") for n in range(20))
    lonely = TensorReport(id="u", kind="output", status="unmatched", reason="only")
    unmatched = tuple(replace(lonely, id=f"step0/u{n}/output/0") for n in range(13))
    text = rendered(some_report(tensors=failed + unmatched))
    assert "first failed tensors (12 of 20)" in text
    assert "unmatched tensors (12 of 13)" in text
    assert "step0/m11/" in text and "step0/m12/" not in text


def test_the_table_begins_with_the_first_divergence():
    failed = tuple(replace(FAILED, id=f"step0/m{n}/output/0") for n in range(20))
    first = some_report().first_divergence
    assert first is not None
    first = replace(first, id="step0/m17/output/0")
    text = rendered(some_report(tensors=failed, first_divergence=first))
    assert text.index("step0/m17/") < text.index("step0/m0/")


def test_many_reasons_are_cut_and_still_add_up():
    reasons = {f"reason {chr(ord('a') + n)}": n for n in range(1, 21)}
    counts = Counts(
        total=210, passed=0, failed=0, unmatched=0, skipped=210, skipped_reasons=reasons
    )
    lines = rendered(some_report(counts=counts, tensors=())).splitlines()
    skipped = [line for line in lines if line.startswith("skipped ")]
    assert skipped[0] == "skipped 20: reason u"
    assert skipped[-1] == "skipped 36: for other reasons"
    assert sum(int(line.split()[1].rstrip(":")) for line in skipped) == 210


def test_no_figures_without_a_comparison():
    text = rendered(some_report(tensors=()))
    assert "largest margin - " in text


def test_paths_stay_in_one_piece():
    path = Path("/a/long/path/" + "x" * 100 + "/report.json")
    assert f"report: {path}" in rendered(some_report(), 80, json_path=path)


def test_the_reason_does_not_repeat_the_figures_beside_it():
    failed = replace(
        FAILED,
        reason="rel_err 0.5 exceeds the tolerance 1e-06",
        cause="error",
        max_abs_err=0.25,
        max_abs_err_at=(3, 1),
    )
    text = rendered(replace(some_report(), tensors=(PASSED, failed)))
    assert "largest difference 0.25 at [3, 1]" in text and failed.reason not in text
    scalar = replace(failed, max_abs_err_at=())
    text = rendered(replace(some_report(), tensors=(PASSED, scalar)))
    assert "largest difference 0.25 " in text and "at []" not in text
    other = replace(failed, cause="replicas", reason="replicas differ over tp")
    text = rendered(replace(some_report(), tensors=(PASSED, other)))
    assert other.reason in text


def test_in_a_narrow_terminal_ids_have_the_room_of_what_figures_tell():
    id_ = "step0/decoder.layers.0.mlp.experts.local_experts.0.linear_fc1/main_grad/w"
    tensor = replace(
        failed_tensor(id_),
        cause="error",
        rel_err=0.698,
        max_abs_err=0.5,
        max_abs_err_at=(28, 1),
    )
    report = some_report(tensors=(tensor,), first_divergence=None)
    narrow, wide = rendered(report, 80), rendered(report, 120)
    assert "largest difference" in wide and "largest difference" not in narrow
    rows = [line for line in narrow.splitlines() if line.startswith("│")]
    assert len(rows) == 2 and max(map(len, narrow.splitlines())) <= 80
    other = replace(tensor, cause="shape", reason="shapes differ")
    both = rendered(some_report(tensors=(tensor, other), first_divergence=None), 80)
    assert "shapes differ" in both and "largest difference" not in both


def test_ids_are_not_broken_within_a_word():
    lines = rendered(some_report(), width=84).splitlines()
    cells = [line.split("│")[1].strip() for line in lines if line.count("│") > 2]
    start = next(n for n, cell in enumerate(cells) if cell.startswith("step0/"))
    shown = [cells[start]]
    while "".join(shown) != FAILED.id:
        shown.append(cells[start + len(shown)])
    assert len(shown) > 1 and all(cell[-1] in "/." for cell in shown[:-1])


def test_remarks_and_filters_are_said():
    report = replace(some_report(), remarks=("it is odd",), only={"kinds": "param"})
    text = rendered(report)
    assert "remark: it is odd" in text and "compared only: --kinds param" in text
    assert "remark: it is odd" in repr(report)


def printed(report, detail):
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_report(report, console, detail=detail)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_in_brief_the_verdict_and_its_sentence():
    report = some_report()
    assert printed(report, Detail.BRIEF) == f"verdict: diverged\n{report.summary}\n"


def test_in_full_all_tensors_and_reasons():
    failed = tuple(replace(FAILED, id=f"step{n}/a/main_grad/w") for n in range(40))
    reasons = {f"reason {chr(ord('a') + n)}": 1 for n in range(20)}
    counts = Counts(
        total=60, passed=0, failed=40, unmatched=0, skipped=20, skipped_reasons=reasons
    )
    report = some_report(tensors=failed, counts=counts)
    text = printed(report, Detail.FULL)
    assert all(tensor.id in text for tensor in failed)
    assert all(f"skipped 1: {reason}\n" in text for reason in reasons)
    assert "12 of" not in text and "other reasons" not in text
    assert failed[30].id not in printed(report, Detail.USUAL)
