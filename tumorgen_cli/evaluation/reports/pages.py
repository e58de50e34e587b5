"""What the pages share: the frame, templates, numbers and pictures.

A page needs no other file. Light and dark colors follow the system of the reader. Every page begins with a verdict and
pictures; then come facts on its origin, a few large numbers, and details.
"""

from __future__ import annotations

import base64
import datetime
import functools
import io
import math
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import tumorgen_cli

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from PIL import Image

    from tumorgen_cli.evaluation.reports.planes import Plane


#: colors to draw figures in, which `svg` replaces by the page's: text, soft text, lines, marks
INK = {"#010203": "var(--text)", "#010204": "var(--soft)", "#010205": "var(--line)", "#010206": "var(--mark)"}


def render(template: str, **content: Any) -> str:
    """Return a page from a template of `templates/`. Strings are escaped; `Markup` is inserted as it is.

    Each page needs `title`, `heading`, `lead`, `verdict`, `facts` (text or lists of texts by title) and `tiles` (title,
    value, what real tumors give, remark).
    """
    return _environment().get_template(template).render(made=_made(), **content)


def _made() -> str:
    """When and by what a page is made."""
    now = datetime.datetime.now(datetime.timezone.utc).astimezone()
    return f"{now:%Y-%m-%d %H:%M}, TumorGen {tumorgen_cli.__version__}"


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
    environment.filters |= {"number": number, "percent": percent, "jpeg": jpeg, "plane_pictures": plane_pictures}
    environment.globals |= {"around": around, "viewer_file": viewer_file}
    return environment


def number(value: float) -> str:
    """Format a number with three digits and without an exponent, or `undefined`."""
    if not math.isfinite(value):
        return "undefined"
    if 0 < abs(value) < 0.01:
        return f"{value:.3f}"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Format a time: `12 s`, `3 min`, `2.5 h`."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def around(value: float, low: float, high: float) -> Markup:
    """Format a value with its interval, if it has one."""
    interval = Markup(" <small>({} to {})</small>").format(number(low), number(high)) if math.isfinite(low) else ""
    return Markup("{}{}").format(number(value), interval)


def percent(value: float) -> str:
    """Format a share in percent, or `undefined`."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else "undefined"


def jpeg(picture: np.ndarray | Image.Image) -> str:
    """Return a picture, of PIL or (H, W) or (H, W, 3) uint8, as a data URL."""
    from PIL import Image

    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def plane_pictures(plane: Plane, most: int = 0) -> dict[str, Any]:
    """Return a plane as the template `plane` draws it.

    Where the picture before painting differs from the one after, a patch of it is laid over the latter.

    Args:
        plane: The plane.
        most: Most pixels of a picture; larger ones are reduced. 0: no limit.
    """
    after = plane.pictures["after"]
    before = plane.pictures.get("before", after)
    height, width = after.shape
    layers = [("after", (0, 0, height, width), _reduced(after, 1.0 if not most else most / after.size))]
    changed = np.argwhere(before != after)
    if len(changed):
        (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0) + 1
        patch = before[top:bottom, left:right]
        layers.append(("before", (top, left, bottom, right), _reduced(patch, 1.0 if not most else most / after.size)))
    across, down = plane.size_mm[0] / width, plane.size_mm[1] / height
    return {
        "plane": plane,
        "layers": [
            (name, left * across, top * down, (right - left) * across, (bottom - top) * down, picture)
            for name, (top, left, bottom, right), picture in layers
        ],
    }


def _reduced(picture: np.ndarray, share: float) -> str:
    """A gray picture (H, W) as a data URL, reduced to a share of its pixels."""
    from PIL import Image

    image = Image.fromarray(picture)
    if share < 1:
        size = (max(1, round(n * math.sqrt(share))) for n in image.size)
        image = image.resize((next(size), next(size)), Image.Resampling.BOX)
    return jpeg(image)


def viewer_file(name: str) -> str:
    """Return a file of `viewer/`: text as it is, a packed file as base64."""
    content = (resources.files("tumorgen_cli.evaluation.reports") / "viewer" / name).read_bytes()
    return base64.b64encode(content).decode("ascii") if name.endswith(".gz") else content.decode("utf-8")


def space_ticks(axis: Axis, ticks: Sequence[float], least: float = 0.09) -> None:
    """Label the ticks of an axis that stand apart, by `least` of its length; the others are marked without a label.

    The ends of the axis must be set. On a logarithmic axis, lengths are those of the picture, too.
    """
    ends = axis.axes.transAxes.inverted()
    number = 0 if axis is axis.axes.xaxis else 1
    at = [ends.transform(axis.axes.transData.transform((tick, tick)))[number] for tick in ticks]
    labels, last = [], -math.inf
    for tick, place in zip(ticks, at, strict=True):
        labels.append(f"{tick:g}" if place - last >= least else "")
        last = place if labels[-1] else last
    axis.set_ticks(ticks, labels)
    axis.minorticks_off()


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range above 0: 1, 2 and 5 times powers of ten.

    A range of more than three powers of ten has these powers alone; one of less than one has numbers between, too.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = math.log10(high / low)
    steps = (1,) if powers > 3 else (1, 2, 5) if powers >= 1 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


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
