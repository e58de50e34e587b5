"""Previews: which way is up, and what is drawn; pixels are looked at, not compared with a stored picture."""

import numpy as np
import pytest
from PIL import Image

from tumorgen_cli.figures import (
    View,
    display_style,
    plane_image,
    save_grid_preview,
    save_pair_preview,
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
    assert display_style("PET") == ("gray_r", "SUV")
    assert display_style("CT") == ("gray", "HU")
    assert display_style("contrast_T1") == ("gray", "intensity")
    assert [tumor_unit(name) for name in ("PET", "CT", "noNorm", "contrast_T1")] == [
        "SUV",
        "HU",
        "intensity",
        "scan ranges",
    ]
