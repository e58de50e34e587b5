"""The page of a training: where it is, curves from the stage's log, and its previews.

It is written into the stage's folder when the training begins, after each checkpoint and at the end. While the training
runs, the page loads itself again.
"""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from tumorgen_cli.evaluation.reports.pages import INK, duration, number, render, round_ticks, space_ticks, svg
from tumorgen_cli.evaluation.reports.verdict import PageVerdict
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.files import write_text
from tumorgen_cli.training.checkpoints import read_log, read_run
from tumorgen_cli.training.watch import Moment

PAGE = "training.html"
_RELOAD_SECONDS = 30  # half of the time between two checkpoints
_SILENT_SECONDS = 600  # ten checkpoints without a new page: the training was probably killed
_MOST_POINTS = 300  # of a curve: about one for each pixel of a panel
_WINDOW = 0.1  # share of the rows that "now" and "at first" are means of, and that curves are smoothed over
_COLUMNS = 3  # of panels
_MOST_PREVIEWS = 6  # the newest ones; a stage draws as many
_OTHERS = ("step", "seconds", "rate")  # columns of a log that are no numbers of the network
_GRADIENT = "_gradient"

Row = dict[str, float]


@dataclass(frozen=True)
class TrainingPage:
    """Writes the page: a watcher of a training.

    Attributes:
        facts: Where the training comes from, by title.
        command: The command that continues it after a stop.
    """

    facts: dict[str, str]
    command: str

    def __call__(self, moment: Moment) -> None:
        """Write the page of a moment."""
        write_text(moment.folder / PAGE, draw_page(moment, self.facts, self.command))


def draw_page(moment: Moment, facts: dict[str, str], command: str) -> str:
    """Return the page as HTML. It needs no other file."""
    rows = read_log(moment.folder)
    names = _names(rows)
    pictures = [(step, _picture(path)) for step, path in _previews(moment.folder)]
    return render(
        "training.html.j2",
        title=f"{moment.title}: training",
        heading=moment.title,
        lead=f"training of the stage {moment.stage}",
        verdict=_verdict(moment, command),
        facts=_facts(moment, facts),
        tiles=_tiles(rows, names),
        beside="at first",
        running=moment.state == "running",
        reload_seconds=_RELOAD_SECONDS,
        silent_seconds=_SILENT_SECONDS,
        written=round(time.time()),
        curves=_curves(rows, names, max(moment.step, moment.iterations)) if len(rows) > 1 else "",
        pictures=pictures[::-1],
        rows=[(name, *map(number, _told(rows, name))) for name in names],
    )


def _verdict(moment: Moment, command: str) -> PageVerdict:
    """Say whether the training runs, has stopped or is finished, and what to do."""
    share = f"{moment.step} of {moment.iterations} steps"
    if moment.state == "finished":
        return PageVerdict("good", "The training is finished.", f"{share} in {duration(moment.seconds)}.")
    if moment.state == "stopped":
        return PageVerdict("care", f"The training has stopped after {share}.", f"{command} goes on from there.")
    percent = f"{moment.step / max(1, moment.iterations):.0%}"
    if not moment.step:
        return PageVerdict("unknown", "The training begins.", "Curves come with the first checkpoint.")
    left = duration(moment.seconds / moment.step * (moment.iterations - moment.step))
    return PageVerdict("unknown", f"The training runs: {percent}.", f"{share}; about {left} left.")


def _facts(moment: Moment, facts: dict[str, str]) -> dict[str, str]:
    """Where the training comes from and, once it is finished, what was measured at the end."""
    found = dict(facts) | {"time": f"{duration(moment.seconds)} for {moment.step} steps"}
    if moment.state == "finished":
        try:
            run = read_run(moment.folder)
        except StateError:  # the page is not worth an error
            return found
        found["device"] = f"{run.device}, peak memory {number(run.peak_memory_gib)} GiB"
        if run.numbers:
            found["measured at the end"] = ", ".join(f"{name} {number(value)}" for name, value in run.numbers.items())
    return found


def _names(rows: Sequence[Row]) -> list[str]:
    """The logged numbers: losses and their terms first, norms of gradients last."""
    found = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _OTHERS]
    return sorted(found, key=lambda name: name.endswith(_GRADIENT))


def _values(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the values of a number, where it was logged."""
    found = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    return np.array([step for step, _ in found]), np.array([value for _, value in found])


def _window(count: int) -> int:
    """The number of rows that a mean is taken over."""
    return max(1, round(_WINDOW * count))


def _told(rows: Sequence[Row], name: str) -> tuple[float, float, float]:
    """The mean of a number over the first rows and over the last ones, and its smallest value."""
    _, values = _values(rows, name)
    if not len(values):
        return math.nan, math.nan, math.nan
    window = _window(len(values))
    return float(values[:window].mean()), float(values[-window:].mean()), float(values.min())


def _tiles(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """The large numbers: at most three losses or their terms, and how fast the training is."""
    found = []
    for name in [name for name in names if not name.endswith(_GRADIENT)][:3]:
        first, last, _ = _told(rows, name)
        found.append((name, number(last), number(first), f"mean of the latest {_WINDOW:.0%} of the logged steps"))
    if len(rows) > 1:
        steps, seconds = _values(rows, "seconds")
        window = _window(len(steps))
        now, before = (
            number((seconds[end] - seconds[begin]) / (steps[end] - steps[begin]))
            for begin, end in ((-1 - window, -1), (0, window))
        )
        found.append(("seconds a step", now, before, "with checkpoints and previews"))
    return found


def _smooth(values: np.ndarray) -> np.ndarray:
    """The running mean of values (N,) over a window around each, which is shorter at the ends."""
    half = _window(len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    begin, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[end] - sums[begin]) / (end - begin)


def _thin(values: np.ndarray) -> np.ndarray:
    """At most `_MOST_POINTS` of values (N,), evenly spaced, with the first and the last."""
    return values[np.linspace(0, len(values) - 1, min(len(values), _MOST_POINTS)).round().astype(int)]


def _curves(rows: Sequence[Row], names: Sequence[str], iterations: int) -> Markup:
    """Draw each number over the steps, as it was logged and smoothed, as inline SVG in the colors of the page."""
    from matplotlib.figure import Figure

    text, soft, line, mark = INK
    lines = math.ceil(len(names) / _COLUMNS)
    figure = Figure(figsize=(9.6, 2.2 * lines), facecolor="none")
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    edge = 0.35 / (2.2 * lines)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=edge, top=1 - edge, wspace=0.24, hspace=0.5)
    for panel, name in zip(panels, names, strict=False):
        steps, values = _values(rows, name)
        panel.plot(_thin(steps), _thin(values), color=soft, linewidth=0.7, alpha=0.6)
        panel.plot(_thin(steps), _thin(_smooth(values)), color=mark, linewidth=1.8)
        if len(values) and values.min() > 0 and values.max() > 10 * values.min():
            panel.set_yscale("log")
            space_ticks(panel.yaxis, round_ticks(*panel.get_ylim()))
        panel.set_title(name, fontsize=9, color=text)
        panel.set(facecolor="none", xlim=(0, iterations))
        panel.locator_params(axis="x", nbins=5)
        panel.tick_params(colors=text, labelsize=7, which="both")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    return svg(figure)


def _previews(folder: Path) -> list[tuple[int, Path]]:
    """The newest previews of a training with their steps, in order."""
    found = [(re.fullmatch(r"step_(\d+)", path.stem), path) for path in (folder / "previews").glob("step_*.png")]
    return sorted((int(match[1]), path) for match, path in found if match)[-_MOST_PREVIEWS:]


def _picture(path: Path) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
