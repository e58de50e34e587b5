"""Pages of sets that were never painted: scores written by hand, and tumors drawn into noise."""

import itertools
from dataclasses import replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from support.scores import make_scores
from support.sets import painted_tumor, provenance

from tumorgen_cli.evaluation.reports.crops import make_crop
from tumorgen_cli.evaluation.reports.one_set import Losses, Origin, Pictures, write_report
from tumorgen_cli.evaluation.reports.pairs import PairPictures
from tumorgen_cli.evaluation.reports.planes import center_on, cut_planes
from tumorgen_cli.figures import View, box_mask
from tumorgen_cli.geometry import Box, Grid

NOTHING = Losses({}, {}, {}, ())
ORIGIN = Origin("Dataset001_Phantom", ("tumorgen flow: 9 of 9 planned steps, 3 min on cpu",), (1, 3))
#: axes to the right, the front and the head; the origin is not 0
GRID = Grid((40, 36, 30), (2.0, 2.0, 3.0), (30.0, -20.0, 100.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def drawn_tumor(seed=0, crop=True, host=True, size=6):
    """A bright cuboid that was painted into noise, off the middle, as the page shows it; also its mask (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.5, 1.5, GRID.shape).astype(np.float32)
    start = tuple(int(v) for v in rng.integers(4, 18, 3))
    box = Box(start, tuple(v + size for v in start))
    mask = np.zeros(GRID.shape, bool)
    mask[box.grown(-1, GRID.shape).slices] = True
    after = np.where(mask, 6.0, before).astype(np.float32)
    view = View(GRID.spacing_mm, (0.0, 7.0), GRID.direction, "gray_r", context_mm=20.0)
    images = {"after": after, "before": before} if host else {"after": after}
    planes = cut_planes(images, {"mask": mask, "box": box_mask(GRID.shape, [box])}, center_on(mask, [box], view), view)
    made = make_crop(images, mask, [box], GRID, (0.0, 20.0), (0.0, 7.0)) if crop else None
    return PairPictures(planes, made), mask


def lines(count):
    """The provenance of pairs."""
    return [
        replace(
            provenance(f"pair{i}", "<host>"),
            tumors=(replace(painted_tumor(rejected={"empty": 2}), padded=i == 0),),
        )
        for i in range(count)
    ]


def write_page(path, scores=None, drawn=None, others=(), losses=NOTHING):
    """Write a page and return its verdict. By default each pair is drawn, and the first three have crops."""
    scores = scores or make_scores([0.5, 0.9, 0.1, 0.7])
    cases = [case.case for case in scores.of("synthetic")]
    if drawn is None:
        drawn = {case: drawn_tumor(i, crop=i < 3, host=i != 3)[0] for i, case in enumerate(cases)}
    links = {case: {"preview": f"../previews/{case}.png", "label": f"../a%20b/{case}.nii.gz"} for case in cases}
    pictures = Pictures(drawn, links, {"pair0": np.zeros((8, 9)), "t0": np.ones((8, 9))})
    return write_report(path, scores, others, lines(len(cases)), losses, pictures, ORIGIN)


def touching_texts(figure):
    """The pairs of texts of a figure that touch each other, and the texts that leave the figure."""
    FigureCanvasAgg(figure).draw()
    panels = [panel for panel in figure.axes if panel.axison]
    ticks = [tick.label1 for panel in panels for axis in (panel.xaxis, panel.yaxis) for tick in axis._update_ticks()]
    legends = [each for each in (*figure.legends, *(panel.get_legend() for panel in panels)) if each]
    texts = [*ticks, *(panel.title for panel in panels), *(panel.xaxis.label for panel in panels)]
    texts += [text for legend in legends for text in legend.get_texts()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]
    found = [(one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)]
    return found + [name for name, box in boxes if box.x0 < 0 or box.x1 > figure.bbox.x1 or box.y0 < 0]
