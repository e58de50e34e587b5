"""Previews: which way is up, and what is drawn; pixels are looked at, not compared with a stored picture."""

import numpy as np
import pytest
from PIL import Image

from tumorgen_cli import figures
from tumorgen_cli.figures import (
    View,
    bar_mm,
    describe_ml,
    describe_mm,
    display_style,
    plane_image,
    save_grid_preview,
    save_pair_preview,
    slice_numbers,
    tumor_unit,
    upright,
)
from tumorgen_cli.geometry import Box

IDENTITY = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
RED, BLUE = (224, 36, 94), (29, 155, 240)


def share(path, color, box=None):
    """Pixels close to a color, in all of the picture or a (left, top, right, bottom) fraction of it."""
    picture = Image.open(path).convert("RGB")
    if box:
        picture = picture.crop(tuple(round(f * n) for f, n in zip(box, picture.size * 2, strict=True)))
    return int((np.abs(np.asarray(picture, int) - color).sum(axis=2) < 60).sum())


@pytest.fixture
def pair():
    before = np.ones((30, 24, 20), np.float32)
    mask = np.zeros(before.shape, np.uint8)
    mask[12:18, 10:14, 8:12] = 1
    return before, np.where(mask, 5, before), mask, [Box((9, 8, 6), (21, 17, 15))]


def test_planes_are_upright():
    """With axes to the left, back and head: axial has the front on top, the others the head."""
    volume = np.zeros((3, 4, 5))
    volume[0, 1, 4] = 1  # right, near the front, top
    axial, coronal, sagittal = plane_image(volume, 2, 4), plane_image(volume, 1, 1), plane_image(volume, 0, 0)
    assert (axial.shape, coronal.shape, sagittal.shape) == ((4, 3), (5, 3), (5, 4))
    assert axial[1, 0] == coronal[0, 0] == sagittal[0, 1] == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_upright_undoes_a_direction(order, signs):
    patient = np.arange(3 * 4 * 5).reshape(3, 4, 5)  # axes to the left, back, head
    stored = np.transpose(patient, order)
    stored = stored[tuple(slice(None, None, s) for s in signs)]
    direction = np.zeros((3, 3))
    for index_axis, (patient_axis, sign) in enumerate(zip(order, signs, strict=True)):
        direction[patient_axis, index_axis] = sign
    tilt = direction + 0.05  # a scan is never quite straight
    np.testing.assert_array_equal(upright(stored, tuple(tilt.ravel())), patient)
    np.testing.assert_array_equal(upright(patient, IDENTITY), patient)


def test_pair_shows_mask_and_box_in_the_third_column_alone(tmp_path, pair):
    path = tmp_path / "deep" / "pair.png"
    save_pair_preview(path, *pair, View((3.0, 3.0, 4.0), (0, 6), context_mm=80), "a pair")
    assert [p.name for p in path.parent.iterdir()] == ["pair.png"]
    assert share(path, RED, (2 / 3, 0, 1, 1)) > 100
    assert share(path, BLUE, (2 / 3, 0, 1, 1)) > 100
    assert share(path, RED, (0, 0, 0.6, 1)) == share(path, BLUE, (0, 0, 0.6, 1)) == 0


def test_pair_keeps_proportions(tmp_path, pair):
    """The box is 36 mm wide and 27 deep in the axial plane, whatever the voxels are."""
    path = tmp_path / "pair.png"
    save_pair_preview(path, *pair, View((3.0, 3.0, 12.0), (0, 6), context_mm=80), "")
    colors = np.asarray(Image.open(path).convert("RGB"), int)
    blue = colors[..., 2] - colors[..., 0] > 60  # also where a line lies between two pixels
    rows = np.flatnonzero(blue.any(axis=1))
    axial = rows[: np.flatnonzero(np.diff(rows) > 5)[0] + 1]
    columns = np.flatnonzero(blue[axial].any(axis=0))
    assert (columns[-1] - columns[0]) / (axial[-1] - axial[0]) == pytest.approx(36 / 27, rel=0.05)


def test_pair_without_mask_or_box(tmp_path, pair):
    before, after, mask, boxes = pair
    save_pair_preview(tmp_path / "no_mask.png", before, after, mask * 0, boxes, View((3, 3, 4), (0, 6)), "")
    assert share(tmp_path / "no_mask.png", RED) == 0
    view = View((3, 3, 4), (0, 6), direction=(0, 1, 0, 1, 0, 0, 0, 0, -1))
    save_pair_preview(tmp_path / "no_box.png", before, after, mask * 0, [], view, "")
    assert share(tmp_path / "no_box.png", BLUE) == 0


def test_context_crops(tmp_path, pair):
    """With little context the mask fills more of the picture."""
    for name, context in (("near", 5.0), ("far", 500.0)):
        save_pair_preview(tmp_path / f"{name}.png", *pair, View((3, 3, 4), (0, 6), context_mm=context), "")
    assert share(tmp_path / "near.png", RED) > 1.2 * share(tmp_path / "far.png", RED)


def test_grid(tmp_path):
    images = [[np.zeros((10, 12)), np.ones((10, 12))], [np.ones((10, 12))]]
    save_grid_preview(tmp_path / "grid.png", images, ["a", "b"], ["one", "two"], 0, 1)
    assert share(tmp_path / "grid.png", (0, 0, 0)) > 10_000
    assert share(tmp_path / "grid.png", RED) == 0


def test_display_of_channels():
    assert display_style("PET") == ("gray_r", "uptake")
    assert [display_style(name)[1] for name in ("SUV", "PET_SUVbw", "petsuv", "SPECT", "suvat")] == [
        *["SUV"] * 3,
        "uptake",
        "intensity",
    ]
    assert display_style("CT") == ("gray", "HU")
    assert display_style("contrast_T1") == ("gray", "intensity")
    assert [tumor_unit(name) for name in ("SUV", "CT", "noNorm", "contrast_T1")] == [
        "SUV",
        "HU",
        "intensity",
        "scan ranges",
    ]


def test_slices_are_numbered_as_in_the_file():
    """The patient axes of a stored (Z, -Y, X) volume; the region starts at (2, 3, 4) of the file."""
    direction = np.zeros((3, 3))
    direction[2, 0], direction[1, 1], direction[0, 2] = (
        1,
        -1,
        1,
    )  # file axis 0 to the head, 1 to the front, 2 to the left
    region = Box((2, 3, 4), (12, 23, 34))
    found = slice_numbers((15, 25, 35), region, (5, 6, 7), tuple(direction.ravel()))
    assert found == [(4 + 5 + 1, 35), (23 - 1 - 6 + 1, 25), (2 + 7 + 1, 15)]


@pytest.mark.parametrize(
    ("width", "length", "words"),
    [(100.0, 20.0, "2 cm"), (160.0, 50.0, "5 cm"), (30.0, 10.0, "1 cm"), (14.0, 2.0, "2 mm"), (2.0, 0.5, "0.5 mm")],
)
def test_scale_bars_are_round(width, length, words):
    assert bar_mm(width) == pytest.approx(length)
    assert describe_mm(bar_mm(width)) == words


@pytest.mark.parametrize(
    ("volume", "words"),
    [(0.0, "0 ml"), (0.0521, "0.052 ml"), (0.5, "0.50 ml"), (2.04, "2.0 ml"), (25.3, "25 ml"), (1240.4, "1240 ml")],
)
def test_volumes_have_two_digits(volume, words):
    assert describe_ml(volume) == words


def test_pair_names_slices_sides_scale_and_volume(tmp_path, pair, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    save_pair_preview(tmp_path / "pair.png", *pair, View((3.0, 3.0, 4.0), (0, 6), context_mm=80), "a pair")
    (figure,) = drawn
    assert figure.get_suptitle() == "a pair · 3.5 ml"  # 96 voxels of 36 mm3
    rows = [figure.axes[i] for i in (0, 3, 6)]
    assert [row.get_ylabel().split("\n")[1] for row in rows] == ["slice 11 of 20", "slice 13 of 24", "slice 16 of 30"]
    letters = ["".join(text.get_text() for text in row.texts if len(text.get_text()) == 1) for row in rows]
    assert letters == ["RLAP", "RLSI", "APSI"]
    assert [row.texts[-1].get_text() for row in rows] == ["2 cm"] * 3


@pytest.mark.parametrize(("colormap", "ink"), [("gray_r", "black"), ("gray", "white")])
def test_scale_bars_and_sides_stand_out_from_the_background(tmp_path, pair, monkeypatch, colormap, ink):
    """Where the lowest values are shown white, they are black."""
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, _: drawn.append(figure))
    save_pair_preview(tmp_path / "pair.png", *pair, View((3.0, 3.0, 4.0), (0, 6), colormap=colormap), "")
    marked = [ax for ax in drawn[0].axes if ax.texts]
    assert len(marked) == 3
    for ax in marked:
        assert [text.get_color() for text in ax.texts] == [ink] * 5
        assert [line.get_color() for line in ax.lines] == [ink]


def test_a_plane_cuts_a_mask_whose_middle_is_empty(tmp_path, pair, monkeypatch):
    """Two balls of one tumor: between them lies nothing."""
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    before, after, mask, boxes = pair
    mask = np.zeros_like(mask)
    mask[10:12, 10:13, 7:9] = mask[18:20, 10:13, 12:14] = 1
    save_pair_preview(tmp_path / "pair.png", before, after, mask, boxes, View((3.0, 3.0, 4.0), (0, 6)), "")
    outlines = [len(drawn[0].axes[i].collections) for i in (2, 5, 8)]
    assert outlines == [2, 2, 2]  # box and mask in each plane


@pytest.mark.parametrize("direction", [IDENTITY, (0, 1, 0, -1, 0, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_planes_are_looked_for_in_the_boxes_alone(tmp_path, pair, monkeypatch, direction):
    """They are those of the whole scan; in a scan of 512 × 512 × 400 voxels it would be most of a picture's time."""
    looked_at, planes = [], []
    draw, most_cut = figures._draw_planes, figures.most_cut
    monkeypatch.setattr(figures, "most_cut", lambda mask: looked_at.append(mask.size) or most_cut(mask))
    monkeypatch.setattr(figures, "_draw_planes", lambda *given: planes.append(given[3:5]) or draw(*given))
    before, after, _, _ = pair
    mask = np.random.default_rng(0).random(before.shape) > 0.3
    boxes = [Box((9, 8, 6), (21, 17, 15)), Box((3, 11, 12), (8, 20, 19))]
    mask[figures.box_mask(mask.shape, boxes) == 0] = False
    view = View((3.0, 3.0, 4.0), (0, 6), direction, context_mm=7.0)
    save_pair_preview(tmp_path / "pair.png", before, after, mask, boxes, view, "")
    near = Box((3, 8, 6), (21, 20, 19)).grown((3, 3, 2), mask.shape)
    center = most_cut(figures.upright(mask[near.slices], direction))
    assert planes == [(center, figures.slice_numbers(mask.shape, near, center, direction))]
    assert looked_at == [18 * 12 * 13]


def test_tumors_that_no_plane_cuts_are_counted():
    large, small, far = (np.zeros((20, 20, 20), bool) for _ in range(3))
    large[2:10, 2:10, 2:10], small[12:14, 5:7, 12:14], far[15:17, 15:17, 15:17] = True, True, True
    center = figures.most_cut(large | small | far)
    assert figures.count_cut([large, small, far, np.zeros_like(far)], center) == (3, 2)
