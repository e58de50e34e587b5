"""Planes in true proportions, outlines on the edges of voxels, slices numbered as in the file."""

import re

import numpy as np
import pytest

from tumorgen_cli.evaluation.reports.pages import plane_pictures
from tumorgen_cli.evaluation.reports.planes import Plane, center_on, cut_best_slice, cut_planes, outline_path
from tumorgen_cli.figures import View
from tumorgen_cli.geometry import Box

LPS = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)


def lines(path):
    """The lines of a path, each as the set of its two ends."""
    found = set()
    for left, top, kind, size in re.findall(r"M([\d.]+) ([\d.]+)([hv])([\d.]+)", path):
        x, y, length = float(left), float(top), float(size)
        found.add(frozenset([(x, y), (x + length, y) if kind == "h" else (x, y + length)]))
    return found


def test_an_outline_follows_the_edges_of_pixels():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1] = mask[1, 2] = True  # an L
    corners = [(2, 3), (6, 3), (6, 6), (4, 6), (4, 9), (2, 9)]
    assert lines(outline_path(mask, (2.0, 3.0))) == {
        frozenset(ends) for ends in zip(corners, [*corners[1:], corners[0]], strict=True)
    }
    assert outline_path(mask * 0, (2.0, 3.0)) == ""


def test_an_outline_at_the_border_is_closed():
    assert len(lines(outline_path(np.ones((2, 3), bool), (1.0, 1.0)))) == 4


def test_planes_show_the_tumor_where_it_is():
    scan, tumor = np.zeros((30, 20, 10), np.float32), np.zeros((30, 20, 10), bool)
    tumor[20:23, 4:6, 7] = True
    scan[tumor] = 5
    view = View((1.0, 2.0, 4.0), (0.0, 5.0), LPS, "gray", context_mm=8.0)
    planes = cut_planes({"after": scan}, {"mask": tumor}, center_on(tumor, [], view), view)
    assert [plane.words for plane in planes] == [
        "axial, slice 8 of 10",
        "coronal, slice 6 of 20",
        "sagittal, slice 22 of 30",
    ]
    assert [plane.sides for plane in planes] == ["RLAP", "RLSI", "APSI"]
    # 8 mm around 3 x 2 x 1 voxels, cut at the borders of the scan
    assert [plane.size_mm for plane in planes] == [(18.0, 20.0), (18.0, 20.0), (20.0, 20.0)]
    for plane in planes:
        edges = (
            plane.size_mm[0] / plane.pictures["after"].shape[1],
            plane.size_mm[1] / plane.pictures["after"].shape[0],
        )
        bright = np.argwhere(plane.pictures["after"] == 255)
        ends = np.array([end for line in lines(plane.outlines["mask"]) for end in line])
        assert ends.min(axis=0) == pytest.approx(bright.min(axis=0)[::-1] * edges)
        assert ends.max(axis=0) == pytest.approx((bright.max(axis=0)[::-1] + 1) * edges)


def test_a_flipped_file_shows_the_same_picture_with_its_own_slice_number():
    rng = np.random.default_rng(0)
    scan, tumor = rng.normal(size=(12, 11, 10)).astype(np.float32), np.zeros((12, 11, 10), bool)
    tumor[2:4, 3, 6:9] = True
    view = View((1.0, 1.0, 1.0), (-2.0, 2.0), LPS, "gray", context_mm=2.0)
    flipped = View((1.0, 1.0, 1.0), (-2.0, 2.0), (-1.0, 0, 0, 0, 1, 0, 0, 0, -1), "gray", context_mm=2.0)
    one = cut_planes({"after": scan}, {"mask": tumor}, center_on(tumor, [], view), view)
    turned, mask = scan[::-1, :, ::-1], tumor[::-1, :, ::-1]
    other = cut_planes({"after": turned}, {"mask": mask}, center_on(mask, [], flipped), flipped)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.pictures["after"], b.pictures["after"])
        assert a.outlines == b.outlines
    assert [plane.number for plane in one] == [8, 4, 4]
    assert [plane.number for plane in other] == [10 - 8 + 1, 4, 12 - 4 + 1]


def test_pictures_of_a_place_show_one_slice_of_all_methods():
    before = np.zeros((20, 20, 20), np.float32)
    masks = {name: np.zeros(before.shape, bool) for name in ("a", "b")}
    masks["a"][8:12, 8:12, 6:10] = masks["b"][9:11, 9:11, 9:14] = True
    view = View((1.0, 1.0, 1.0), (0.0, 1.0), LPS, "gray", context_mm=3.0)
    found = cut_best_slice(before, {n: (before, mask) for n, mask in masks.items()}, Box((7, 7, 5), (13, 13, 15)), view)
    assert list(found) == ["before", "a", "b"]
    assert {plane.number for plane in found.values()} == {10}  # the one slice that both masks share
    assert found["before"].outlines.keys() == {"box"}
    assert all(found[name].outlines["mask"] for name in masks)


def test_a_patch_shows_what_was_there_before():
    after = np.full((10, 20), 100, np.uint8)
    before = after.copy()
    before[4:6, 12:15] = 30
    plane = Plane("axial", 1, 1, (40.0, 30.0), "RLAP", {"after": after, "before": before}, {})
    (_, *whole, _), (name, *patch, _) = plane_pictures(plane)["layers"]
    assert whole == [0, 0, 40.0, 30.0]
    assert (name, patch) == ("before", [24.0, 12.0, 6.0, 6.0])
    assert len(plane_pictures(Plane("axial", 1, 1, (40.0, 30.0), "RLAP", {"after": after}, {}))["layers"]) == 1
