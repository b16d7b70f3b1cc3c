"""Takes the pictures of a report: ``python -m tests.report.screenshots FILE.html OUT``.

For people to look at: two widths, light and dark, of each the whole page, its top, and
the dialog of a failed tensor: the first, or the first whose id a pattern matches
(``--tensor``); the page on a phone, and as it is printed. With ``--figures`` those of
docs/figures: ``report.png`` (the page down to its plot), and its parts
``report-verdict.png``, ``report-plots.png`` and ``report-tensor.png``. With ``--only``
one of them: README and tutorial show reports of two checks.
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
        for name, width, medium in (("phone", 390, "screen"), ("print", 794, "print")):
            file = out / f"{path.stem}-{name}.png"
            with opened(started, path, width=width, height=HEIGHT) as found:
                found.page.emulate_media(media=medium)
                found.page.wait_for_timeout(300)
                found.page.screenshot(path=file, full_page=True)
            taken.append(file)
    return taken


def take_figures(path: Path, out: Path, *, only: tuple[str, ...] = ()) -> list[Path]:
    """Takes the pictures of the documentation.

    Args:
        path: The page, of a report in which something failed.
        out: Folder for the pictures.
        only: Names of those that are taken; empty for all.

    Returns:
        Their files.
    """
    with (
        browser() as started,
        opened(started, path, width=WIDTHS[0], height=HEIGHT) as found,
    ):
        page = found.page

        def top(where: str) -> float:
            return page.locator(where).bounding_box()["y"]

        parts = {
            "report": (0, top("#heat-title") - 24),
            "report-verdict": (0, top("#coverage-title") - 24),
            "report-plots": (top("#explore"), top("#tree-title") - 24),
        }
        for name, (start, end) in parts.items():
            if not only or name in only:
                box = {"x": 0, "y": start, "width": WIDTHS[0], "height": end - start}
                page.screenshot(path=out / f"{name}.png", full_page=True, clip=box)
        name = "report-tensor"
        if not only or name in only:
            page.set_viewport_size({"width": WIDTHS[0], "height": 1200})
            page.click("#table tbody .row-failed button")
            page.wait_for_selector("dialog[open]")
            page.locator("dialog").screenshot(path=out / f"{name}.png")
    files = [out / f"{name}.png" for name in (*parts, name) if not only or name in only]
    for file in files:
        _make_small(file)
    return files


def _make_small(file: Path) -> None:
    """Keeps 256 colours, where Pillow is there: a third of the bytes."""
    try:
        from PIL import Image
    except ImportError:
        return
    with Image.open(file) as image:
        image.convert("RGB").quantize(256).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensor", default="", help="pattern of the one to open")
    parser.add_argument("--figures", action="store_true", help="those of the docs")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME")
    args = parser.parse_args()
    pictures = (
        take_figures(args.page, args.out, only=tuple(args.only))
        if args.figures
        else take(args.page, args.out, tensor=args.tensor)
    )
    for picture in pictures:
        print(picture)


if __name__ == "__main__":
    main()
