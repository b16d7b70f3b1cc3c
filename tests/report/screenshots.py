"""Takes the pictures of a report: ``python -m tests.report.screenshots FILE.html OUT``.

For people to look at: two widths, light and dark, of each the whole page, its top, and
the dialog of a failed tensor: the first, or the first whose id a pattern matches
(``--tensor``). With ``--figure`` OUT is one file: the page down to its plot, as in
docs/figures.
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
                with opened(
                    started, path, width=width, height=HEIGHT, dark=dark
                ) as found:
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


def take_figure(path: Path, file: Path) -> None:
    """Takes a picture of a page from its top to the end of its plot."""
    with (
        browser() as started,
        opened(started, path, width=WIDTHS[0], height=HEIGHT) as found,
    ):
        end = found.page.locator("#heat-title").bounding_box()["y"]
        clip = {"x": 0, "y": 0, "width": WIDTHS[0], "height": end - 24}
        found.page.screenshot(path=file, full_page=True, clip=clip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensor", default="", help="pattern of the one to open")
    parser.add_argument("--figure", action="store_true", help="OUT is one file")
    args = parser.parse_args()
    if args.figure:
        take_figure(args.page, args.out)
        return
    for picture in take(args.page, args.out, tensor=args.tensor):
        print(picture)


if __name__ == "__main__":
    main()
