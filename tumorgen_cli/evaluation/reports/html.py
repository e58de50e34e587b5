"""What the pages share: their style, tables, numbers and pictures.

A page needs no other file. Light and dark colors follow the system of the reader.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image


#: colours to draw figures in, which `svg` turns into the page's: text, soft text, lines, marks
INK = {"#010203": "var(--text)", "#010204": "var(--soft)", "#010205": "var(--line)", "#010206": "var(--mark)"}
STYLE = """
:root{color-scheme:light dark;--text:#20242a;--soft:#5d6570;--back:#fff;--card:#f5f6f8;--line:#d9dde3;--mark:#1d6fd1}
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--soft:#a3abb6;--back:#15181c;--card:#1e2329;--line:#3a414b;--mark:#6db3ff}}
*{box-sizing:border-box}body{margin:0 auto;padding:2rem 1.2rem 4rem;max-width:64rem;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p{margin:.4rem 0}.soft,caption{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.86rem}td.n{white-space:nowrap}td.s{min-width:14rem}td small{color:var(--soft)}
.big{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:1.2rem 0}
.big div{background:var(--card);border-radius:8px;padding:.8rem 1rem}.big b{display:block;font-size:1.5rem;color:var(--mark)}
svg{max-width:100%;height:auto}img{max-width:100%;height:auto;border-radius:6px;display:block}
figure{margin:0 0 1.4rem}figcaption{margin:.3rem 0 .5rem}
.two{display:flex;gap:.3rem}.two img{width:50%}.near{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem;margin:1rem 0}
.strip{width:100%;max-width:35rem;background-size:100% auto;background-position:0 calc(var(--k)/var(--n)*100%);border-radius:6px;margin:.6rem 0 .3rem}
input[type=range]{width:100%;max-width:35rem;accent-color:var(--mark)}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.6rem;max-width:calc(var(--n)*15rem)}.row img{width:100%}
.row div{color:var(--soft);font-size:.86rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
"""


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """Return a whole page of HTML; `style` is added to the common one."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n'
        f"<body>\n{''.join(parts)}</body></html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls where it is too wide; cells are HTML.

    The last column holds sentences if it has no title.
    """
    head = "".join(f"<th>{cell}</th>" for cell in header)
    last = 0 if header[-1] else len(header) - 1  # a column without a title holds sentences, which may fold
    body = ""
    for row in rows:
        kinds = ["" if i == 0 else " class=s" if i == last else " class=n" for i in range(len(row))]
        cells = (f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def number(value: float) -> str:
    """Format a number with three digits, or `undefined`."""
    if not math.isfinite(value):
        return "undefined"
    if 0 < abs(value) < 0.01:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def around(value: float, low: float, high: float) -> str:
    """Format a value with its interval, if it has one."""
    return number(value) + (f" <small>({number(low)} to {number(high)})</small>" if math.isfinite(low) else "")


def percent(value: float) -> str:
    """Format a share in percent, or `undefined`."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "undefined"


def picture_row(caption: str, pictures: Mapping[str, np.ndarray]) -> str:
    """Return pictures (H, W, 3) uint8 side by side, each with its title, below a caption."""
    from PIL import Image

    cells = "".join(
        f'<div><img src="{jpeg(Image.fromarray(picture))}" alt="{escape(caption)}, {escape(title)}">{escape(title)}</div>'
        for title, picture in pictures.items()
    )
    return f'<figure><figcaption>{escape(caption)}</figcaption><div class=row style="--n:{len(pictures)}">{cells}</div></figure>'


def jpeg(picture: Image.Image) -> str:
    """Return a picture as a data URL."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def svg(figure: Figure) -> str:
    """Return a figure as inline SVG.

    What is drawn in the colors of `INK` takes the colors of the page, light or dark.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tumorgen"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    picture = stream.getvalue()
    for ink, color in INK.items():
        picture = picture.replace(ink, color)
    return picture[picture.index("<svg") :]
