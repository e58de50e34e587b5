"""What the pages share: templates, numbers and pictures.

A page needs no other file. Light and dark colors follow the system of the reader.
"""

from __future__ import annotations

import base64
import functools
import io
import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment
    from matplotlib.figure import Figure
    from PIL import Image


#: colors to draw figures in, which `svg` replaces by the page's: text, soft text, lines, marks
INK = {"#010203": "var(--text)", "#010204": "var(--soft)", "#010205": "var(--line)", "#010206": "var(--mark)"}


def render(template: str, **content: Any) -> str:
    """Return a page from a template of `templates/`. Strings are escaped; `Markup` is inserted as it is."""
    return _environment().get_template(template).render(content)


@functools.cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tumorgen_cli.evaluation.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "jpeg": jpeg}
    environment.globals["around"] = around
    return environment


def number(value: float) -> str:
    """Format a number with three digits, or `undefined`."""
    if not math.isfinite(value):
        return "undefined"
    if 0 < abs(value) < 0.01:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def around(value: float, low: float, high: float) -> Markup:
    """Format a value with its interval, if it has one."""
    interval = Markup(" <small>({} to {})</small>").format(number(low), number(high)) if math.isfinite(low) else ""
    return Markup("{}{}").format(number(value), interval)


def percent(value: float) -> str:
    """Format a share in percent, or `undefined`."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "undefined"


def jpeg(picture: np.ndarray | Image.Image) -> str:
    """Return a picture, of PIL or (H, W, 3) uint8, as a data URL."""
    from PIL import Image

    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def svg(figure: Figure) -> Markup:
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
    return Markup(picture[picture.index("<svg") :])
