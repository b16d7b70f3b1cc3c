"""Which files a command may be asked to write: refused before the work."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from ttrace.cli.report_files import reported_errors, wanted_reports
from ttrace.errors import UsageError
from ttrace.report.renderers import RENDERERS


def asked(**files):
    return argparse.Namespace(**{**dict.fromkeys(RENDERERS), **files})


def test_files_by_name_of_the_format(tmp_path):
    page = str(tmp_path / "page.html")
    assert wanted_reports(asked(html=page, json="-")) == {
        "json": Path("-"),
        "html": Path(page),
    }


def test_the_report_of_a_check_is_not_replaced_by_a_page(tmp_path):
    own = tmp_path / "report.json"
    with pytest.raises(UsageError, match="would replace the JSON file") as caught:
        wanted_reports(asked(html=str(own)), own=own)
    assert caught.value.where == "--html"
    # The same in its own format does no harm.
    assert wanted_reports(asked(json=str(own)), own=own) == {"json": own}


def test_what_a_command_reads_is_not_replaced(tmp_path):
    source = tmp_path / "report.json"
    source.write_text("{}")
    with pytest.raises(UsageError, match="would replace the JSON file"):
        wanted_reports(asked(json=str(source)), source=source)


def test_two_in_one_file(tmp_path):
    path = str(tmp_path / "report")
    with pytest.raises(UsageError, match="two reports cannot both go to one file"):
        wanted_reports(asked(html=path, text=path))


def failing(files, **options):
    with (
        pytest.raises(UsageError, match="it is wrong"),
        reported_errors(files, backend="auto", **options),
    ):
        raise UsageError("it is wrong", remedy="mend it")


def test_an_error_says_where_its_reports_lie(tmp_path, capsys):
    page = tmp_path / "page.html"
    failing({"html": page})
    assert capsys.readouterr().out == f"report: {page}\n" and page.is_file()
    failing({"html": page, "json": Path("-")})
    said = capsys.readouterr()
    assert said.err == f"report: {page}\n" and '"verdict": "error"' in said.out


def test_an_error_does_not_say_where_an_earlier_report_lies(tmp_path, capsys):
    own = tmp_path / "report.json"
    own.write_text("{}")
    failing({}, own=own)
    assert capsys.readouterr().out == ""
    with (
        pytest.raises(UsageError),
        reported_errors({}, backend="auto", own=tmp_path / "new.json"),
    ):
        (tmp_path / "new.json").write_text("{}")
        raise UsageError("it is wrong", remedy="mend it")
    assert capsys.readouterr().out == f"report: {tmp_path / 'new.json'}\n"


def test_a_format_whose_package_is_missing_is_refused_before_the_work(
    ttrace, tmp_path, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    none, out = tmp_path / "none", tmp_path / "out.parquet"
    answer = ttrace("compare", none, none, "--parquet", out)
    assert answer.code == 2 and not out.exists()
    assert "a file of --parquet needs pyarrow or polars" in answer.err
    assert "pip install 'ttrace[parquet]'" in answer.err
