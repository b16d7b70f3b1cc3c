"""``ttrace report``: every form of a report that lies there as JSON; bad inputs."""

import json
from dataclasses import replace

import pytest

from tests.factories.formats import FORMATS
from tests.factories.reports import some_report
from ttrace.report.model import Report
from ttrace.report.renderers import load_renderer


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "report.json"
    some_report().save(path)
    return path


def test_without_an_option_it_prints_the_text(ttrace, path):
    answer = ttrace("report", path)
    assert answer.code == 0 and answer.out.startswith("verdict: diverged\n")
    assert "report:" not in answer.out


@pytest.mark.parametrize("name", FORMATS)
def test_every_form(ttrace, path, tmp_path, name):
    out = tmp_path / "other"
    answer = ttrace("report", path, f"--{name}", out)
    assert (answer.code, answer.out) == (0, f"report: {out}\n")
    content = load_renderer(name)(Report.load(path))
    data = content if isinstance(content, bytes) else content.encode()
    assert out.read_bytes() == data


def test_how_much_is_shown(ttrace, path, tmp_path):
    summary = Report.load(path).summary
    brief = f"verdict: diverged\n{summary}\n"
    assert ttrace("report", path, "--quiet").out == brief
    assert "failed tensors" in ttrace("report", path, "--verbose").out
    page = tmp_path / "page.html"
    answer = ttrace("report", path, "-q", "--html", page)
    assert answer.out == "" and page.is_file()
    answer = ttrace("report", path, "--quiet", "--verbose")
    assert answer.code == 2 and "not allowed with" in answer.err


def test_several_forms(ttrace, path, tmp_path):
    page, text = tmp_path / "report.html", tmp_path / "report.txt"
    answer = ttrace("report", path, "--html", page, "--text", text)
    assert answer.code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert text.read_text().startswith("verdict: diverged")


def test_standard_output(ttrace, path):
    answer = ttrace("report", path, "--json", "-")
    assert answer.code == 0
    assert Report.from_json(json.loads(answer.out)) == Report.load(path)


@pytest.mark.parametrize("command", ["report", "judge", "diff"])
def test_the_folder_of_a_check_stands_for_its_report(ttrace, path, command):
    rest = {"diff": [path], "judge": ["--allow", "*"]}.get(command, [])
    by_file = ttrace(command, path, *rest)
    assert by_file.code in (0, 1)
    assert ttrace(command, path.parent, *rest) == by_file
    before = path.read_text()
    answer = ttrace(command, path.parent, *rest, "--json", path)
    assert answer.code == 2 and "would replace" in answer.err
    assert path.read_text() == before


def test_a_folder_without_a_report(ttrace, tmp_path):
    refused(
        ttrace("report", tmp_path),
        "there is no report.json in this folder",
        f"where:    {tmp_path}",
        "give the folder of --out of 'ttrace check', or the file that --json",
    )


def refused(answer, *says):
    assert answer.code == 2 and answer.out == ""
    assert answer.err.startswith(f"ttrace: {says[0]}\n"), answer.err
    for text in says[1:]:
        assert text in answer.err


def test_no_such_file(ttrace, tmp_path):
    refused(
        ttrace("report", tmp_path / "none.json"),
        "there is no report here",
        f"where:    {tmp_path / 'none.json'}",
        "make it again with 'ttrace compare'",
    )


def test_truncated(ttrace, path):
    path.write_text(path.read_text()[:400])
    refused(ttrace("report", path), "not a report", "JSON that breaks off at")


def test_another_version(ttrace, path):
    value = json.loads(path.read_text()) | {"schema_version": 99}
    path.write_text(json.dumps(value))
    refused(
        ttrace("report", path),
        "a report of another version",
        f"where:    {path}",
        "expected: schema version 1",
        "got:      99",
    )


def test_a_value_of_a_wrong_type(ttrace, path):
    value = json.loads(path.read_text())
    value["tensors"][1]["rel_err"] = [1]
    path.write_text(json.dumps(value))
    refused(
        ttrace("report", path),
        "not a report as ttrace writes it",
        f"where:    tensors[1].rel_err of {path}",
        "expected: a number",
        "got:      a list of 1 values",
        "make it again with 'ttrace compare'",
    )


def test_a_folder_that_does_not_exist(ttrace, path, tmp_path):
    path.write_text("{")  # not even read
    refused(
        ttrace("report", path, "--html", tmp_path / "none" / "page.html"),
        "the folder for the file of --html does not exist",
        "make the folder first, or correct the path",
    )


def test_two_outputs_in_one_file(ttrace, path, tmp_path):
    out = tmp_path / "out"
    again = tmp_path / "." / "sub" / ".." / "out"
    refused(
        ttrace("report", path, "--html", out, "--text", again),
        "two reports cannot both go to one file",
        "where:    --text and --html",
        "give each a file of its own",
    )
    assert not out.exists()


def test_a_link_to_one_file(ttrace, path, tmp_path):
    out = tmp_path / "out"
    out.write_text("before")
    (tmp_path / "link").symlink_to(out)
    answer = ttrace("report", path, "--html", out, "--json", tmp_path / "link")
    refused(answer, "two reports cannot both go to one file")
    assert out.read_text() == "before"


def test_two_in_standard_output(ttrace, path):
    refused(
        ttrace("report", path, "--html", "-", "--json", "-"),
        "two reports cannot both go to standard output",
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_report_itself_is_not_replaced(ttrace, path, name):
    before = path.read_text()
    refused(
        ttrace("report", path, f"--{name}", path),
        "a report would replace the JSON file that it is made from",
        f"where:    --{name}",
        "give it a file of its own",
    )
    assert path.read_text() == before


def test_a_device_takes_several(ttrace, path):
    assert (
        ttrace("report", path, "--html", "/dev/null", "--text", "/dev/null").code == 0
    )


def test_names_that_steer_a_terminal(ttrace, path):
    report = replace(some_report(), summary="a\x1b[31mred")
    report.save(path)
    assert "\x1b" not in ttrace("report", path).out
