"""Takes the pictures of a report: ``python -m tests.report.screenshots FILE.html OUT``.

For people to look at, and for docs/figures: two widths, light and dark, of each the whole
page, its top, and the dialog of a failed tensor: the first, or the first whose id a
pattern matches (``--tensor``).
"""

import argparse
from pathlib import Path

from tests.report.browser import browser, opened

WIDTHS = (1280, 1920)

HEIGHT = 900


def take(
    path: Path, out: Path, *, tensor: str = "", widths: tuple[int, ...] = WIDTHS
) -> list[Path]:
    """Takes all pictures of one page.

    Args:
        path: The page.
        out: Folder for the pictures.
        tensor: Pattern of the failed tensor that is opened.
        widths: Of the window.

    Returns:
        Their files.
    """
    out.mkdir(parents=True, exist_ok=True)
    taken = []
    with browser() as started:
        for width in widths:
            for dark in (False, True):
                name = f"{path.stem}-{width}-{'dark' if dark else 'light'}"
                files = [out / f"{name}{end}.png" for end in ("", "-top", "-details")]
                size = {"width": width, "height": HEIGHT}
                with opened(started, path, dark=dark, **size) as found:
                    page = found.page
                    page.screenshot(path=files[0], full_page=True)
                    page.screenshot(path=files[1])
                    if tensor:
                        page.fill("#f-text", tensor)
                        page.wait_for_timeout(500)
                    row = page.query_selector("#table tbody .row-failed button")
                    if row is not None:
                        row.click()
                        page.wait_for_selector("dialog[open]")
                        page.screenshot(path=files[2])
                taken += [file for file in files if file.exists()]
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensor", default="", help="pattern of the one to open")
    args = parser.parse_args()
    for picture in take(args.page, args.out, tensor=args.tensor):
        print(picture)


if __name__ == "__main__":
    main()
