"""Takes the pictures of a report: ``python -m tests.report.screenshots FILE.html OUT``.

For people to look at, and for docs/figures: two widths, light and dark, whole pages and
the dialog of the first failed tensor.
"""

import sys
from pathlib import Path

from tests.report.browser import browser, opened

WIDTHS = (1280, 1920)


def take(path: Path, out: Path) -> list[Path]:
    """Takes all pictures of one page.

    Returns:
        Their files, in ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    taken = []
    with browser() as started:
        for width in WIDTHS:
            for dark in (False, True):
                name = f"{path.stem}-{width}-{'dark' if dark else 'light'}"
                with opened(started, path, width=width, height=900, dark=dark) as found:
                    page = found.page
                    page.screenshot(path=out / f"{name}.png", full_page=True)
                    page.screenshot(path=out / f"{name}-top.png")
                    taken += [out / f"{name}.png", out / f"{name}-top.png"]
                    row = page.query_selector("#table tbody .row-failed button")
                    if row is not None:
                        row.click()
                        page.wait_for_selector("dialog[open]")
                        page.screenshot(path=out / f"{name}-details.png")
                        taken.append(out / f"{name}-details.png")
    return taken


if __name__ == "__main__":
    for picture in take(Path(sys.argv[1]), Path(sys.argv[2])):
        print(picture)
