"""The lazy table of what a report can be written as; imports none of it.

A new format is one file beside this one, with one function, and its line here: the
command line takes its option from the table.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttrace.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from ttrace.report.model import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """A format that a report can be written in.

    Attributes:
        module: Where its function lies.
        function: Takes a report, and returns the text of the file, or its bytes.
        help: What ``--NAME FILE`` does, for ``--help``.
        needs: Packages of which it takes one, beside those of ttrace itself.
    """

    module: str
    function: str
    help: str
    needs: tuple[str, ...] = ()


RENDERERS = {
    "json": Renderer(
        module="ttrace.report.model",
        function="render_json",
        help="write the report there",
    ),
    "text": Renderer(
        module="ttrace.report.text",
        function="render_text",
        help="write there what the terminal shows",
    ),
    "html": Renderer(
        module="ttrace.report.html.render",
        function="render_html",
        help="write there a page for a browser, with plots, in one file",
    ),
    "junit": Renderer(
        module="ttrace.report.junit",
        function="render_junit",
        help="write JUnit XML there, a test case for each module and kind",
    ),
    "markdown": Renderer(
        module="ttrace.report.markdown",
        function="render_markdown",
        help="write Markdown there, such as for the summary of a CI job",
    ),
    "sarif": Renderer(
        module="ttrace.report.sarif",
        function="render_sarif",
        help="write SARIF there, the findings beside the code that they are about",
    ),
    "csv": Renderer(
        module="ttrace.report.csv_rows",
        function="render_csv",
        help="write a table there, one line for each tensor",
    ),
    "parquet": Renderer(
        module="ttrace.report.parquet_table",
        function="render_parquet",
        help="write the same table there, its columns with their types; needs "
        "ttrace[parquet]",
        needs=("pyarrow", "polars"),
    ),
}
"""By name, which is also that of the option."""


def require_packages(name: str) -> None:
    """Finds out before the work whether a format can be written.

    Raises:
        MissingExtraError: None of the packages that it takes one of is installed.
    """
    needs = RENDERERS[name].needs
    if needs and not any(map(importlib.util.find_spec, needs)):
        raise MissingExtraError(
            f"a file of --{name} needs {' or '.join(needs)}, and none is installed",
            where=f"--{name}",
            remedy=f"pip install 'ttrace[{name}]', or choose another format",
        )


def load_renderer(name: str) -> "Callable[[Report], str | bytes]":
    """Imports the function of a format.

    Raises:
        UsageError: There is no format of that name.
    """
    if name not in RENDERERS:
        raise UsageError(
            "unknown format of a report",
            expected=f"one of {', '.join(RENDERERS)}",
            got=repr(name),
            remedy="choose one of these",
        )
    renderer = RENDERERS[name]
    return getattr(importlib.import_module(renderer.module), renderer.function)
