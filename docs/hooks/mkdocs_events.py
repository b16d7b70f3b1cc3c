"""What mkdocs calls as it builds the site: some pages are made, others rewritten."""

import logging
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from api_pages import exported, frontends, frontends_page, package_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from option_page import option_page
from page_text import ROOT_PAGES, Checkout, shown_on_site

import ttrace
from ttrace.cli.parser import build_parser

ROOT = Path(__file__).parents[2]

log = logging.getLogger("mkdocs.plugins.ttrace")

_SOURCES = tempfile.TemporaryDirectory(prefix="ttrace-site-")
"""Goes as the process ends."""


@event_priority(100)  # before mkdocstrings reads where the sources lie
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Gives mkdocstrings the packages under their installed names."""
    plugin: Any = config.plugins["mkdocstrings"]
    handler = plugin.config.handlers.setdefault("python", {})
    folder = Path(_SOURCES.name)
    link_packages(folder)
    handler["paths"] = [str(folder)]
    return config


def link_packages(folder: Path) -> None:
    """Makes a folder in which every package lies where an installation has it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms: dict[str, str] = settings["tool"]["setuptools"]["package-dir"]
    package = folder / "ttrace"
    if package.exists():
        return
    package.mkdir()
    for child in (ROOT / rooms["ttrace"]).iterdir():
        (package / child.name).symlink_to(child)
    for name, room in rooms.items():
        _, _, below = name.partition(".")
        if below and below != "examples":  # which no page shows
            (package / below).symlink_to(ROOT / room)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code, and those that lie beside docs/."""
    names = exported(ROOT / "ttrace" / "__init__.py", vars(ttrace)["_LAZY"])
    names["compare"] = "ttrace.pipeline.compare"  # the package of that name is called
    made = {
        "reference/options.md": option_page(build_parser()),
        "reference/package.md": package_page(names),
        "reference/frontends.md": frontends_page(frontends(ROOT / "frontends")),
    }
    for source, path in ROOT_PAGES.items():
        made[path] = (ROOT / source).read_text(encoding="utf-8")
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, **_: object
) -> str:
    """Rewrites fences and links of a page that was written for a code host."""
    path = page.file.src_uri
    sources = {there: here for here, there in ROOT_PAGES.items()}
    if path in sources:
        source = sources[path]
    elif page.file.generated_by:
        return markdown
    else:
        source = f"docs/{path}"
    checkout = Checkout(
        exists=lambda name: (ROOT / name).exists(),
        source_url=config.extra.get("source_url", "").rstrip("/"),
    )
    text, broken = shown_on_site(markdown, source, checkout)
    for link in broken:
        log.warning("%s links to %s, which is not in the checkout", source, link)
    return text
