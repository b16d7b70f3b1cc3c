"""Makes one file out of a template, a style and a script, that asks nothing of anybody.

The page has its own style and script and no other: a Content-Security-Policy allows
these two by their hashes, and no request at all. Every name is escaped.
"""

import base64
import functools
import hashlib
import re
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from ttrace.report.html.figures import figure, plural, setting
from ttrace.report.printable import printable

_SMALL_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?e-\d+)(?![\w.])")
"""A number that is written with a negative power of ten."""


def render_page(
    template: str,
    *,
    styles: tuple[str, ...],
    scripts: tuple[str, ...] = (),
    **values: object,
) -> str:
    """The text of an HTML file.

    Args:
        template: Name of a file in ``template``; it is given ``policy``, ``style``,
            ``script`` and the values.
        styles: Names of files in ``style``, joined in this order.
        scripts: Likewise in ``script``; each uses what the ones before it define.
        values: What the template shows.
    """
    style, script = _joined("style", styles), _joined("script", scripts)
    allowed = f"'{_hash(script)}'" if scripts else "'none'"
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src {allowed}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = (
        _environment()
        .get_template(template)
        .render(
            policy=Markup(policy), style=Markup(style), script=Markup(script), **values
        )
    )
    return page + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ttrace.report.html", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "breakable": _breakable,
        "figure": figure,
        "plural": plural,
        "setting": setting,
    }
    return environment


def _shown(value: object) -> object:
    """Text of others without control characters; markup of our own as it is.

    A browser would break ``1.42e-06`` behind its sign.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    parts = _SMALL_NUMBER.split(printable(value))
    if len(parts) == 1:
        return parts[0]
    whole = '<span class="nobr">%s</span>'
    numbered = enumerate(map(escape, parts))
    return Markup("").join(Markup(whole) % p if n % 2 else p for n, p in numbered)


def _breakable(text: str) -> Markup:
    """A tensor id that may be broken behind a slash or a dot, and not within a word."""
    parts = re.split(r"(?<=[/.])", printable(text))
    return Markup("<wbr>").join(part for part in parts if part)


@functools.cache
def _joined(folder: str, names: tuple[str, ...]) -> str:
    here = resources.files("ttrace.report.html").joinpath(folder)
    texts = [here.joinpath(name).read_text(encoding="utf-8") for name in names]
    if folder == "script":
        return "\n".join(('"use strict";', "{", *texts, "}"))
    return "\n".join(texts)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
