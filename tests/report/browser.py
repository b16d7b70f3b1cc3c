"""A real browser without a screen, for pages that a report was rendered to.

Debian's chromium, driven by playwright; nothing is downloaded. Where either is missing,
tests skip and say what to install.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
)

READY_MS = 60_000
"""The machine may be busy with much else."""


def missing() -> str:
    """What is not installed that a browser needs; empty where all is."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "no playwright: pip install playwright (it is in ttrace[dev])"
    if _chromium() is None:
        return "no chromium: apt-get install chromium"
    return ""


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(kw_only=True)
class Opened:
    """A page in the browser.

    Attributes:
        page: As playwright has it.
        complaints: What the console said, and errors of scripts.
        requests: All that was asked for, but for the page itself.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A browser that is closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=_chromium(), headless=True, args=list(FLAGS)
        )
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def opened(
    started: Any,
    path: Path,
    *,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    script: bool = True,
) -> Iterator[Opened]:
    """Opens a file, and waits until its script is done.

    Args:
        started: From ``browser``.
        path: The file.
        width: Of the window, in CSS pixels.
        height: Likewise.
        dark: Whether the reader prefers a dark page.
        script: Whether scripts run.
    """
    context = started.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
    )
    try:
        page = context.new_page()
        found = Opened(page=page)
        page.on("console", lambda message: found.complaints.append(message.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("request", lambda request: found.requests.append(request.url))
        url = path.resolve().as_uri()
        page.goto(url)
        if script and page.query_selector("#explore"):
            page.wait_for_selector("html[data-ready]", timeout=READY_MS)
        found.requests = [
            asked for asked in found.requests if asked not in (url, "data:,")
        ]
        yield found
    finally:
        context.close()


def clean(found: Opened) -> None:
    """Demands that a page complained of nothing and asked for nothing."""
    assert found.complaints == [] and found.requests == []


def count(page: Any) -> str:
    """What a page says of how many tensors pass its filters."""
    return page.text_content("#f-count")
