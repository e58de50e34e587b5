"""Crops are NIfTI files that lie on the pair, with its values, and that unpack to what was packed."""

import base64
import gzip

import nibabel
import numpy as np
import pytest

from tumorgen_cli.evaluation.reports import crops
from tumorgen_cli.evaluation.reports.crops import make_crop
from tumorgen_cli.geometry import Box, Grid

GRID = Grid((40, 30, 20), (1.0, 1.5, 3.0), (10.0, -20.0, 30.0), (0.0, 1.0, 0, -1.0, 0, 0, 0, 0, 1.0))
BOX = Box((10, 9, 8), (20, 19, 12))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    before = rng.uniform(0, 5, GRID.shape).astype(np.float32)
    mask = np.zeros(GRID.shape, bool)
    mask[12:18, 11:15, 9:11] = True
    return {"after": np.where(mask, 9.0, before).astype(np.float32), "before": before}, mask


def unpacked(text):
    return gzip.decompress(base64.b64decode(text))


def pair_mm(voxel):
    """Where a voxel of the pair lies, in the coordinates of NIfTI."""
    lps = np.array(GRID.origin_mm) + np.array(GRID.direction).reshape(3, 3) @ (np.array(GRID.spacing_mm) * voxel)
    return lps * (-1, -1, 1)


def test_a_crop_lies_on_the_pair_with_its_values(images):
    scans, mask = images
    crop = make_crop(scans, mask, [BOX], GRID, (0.0, 20.0), (0.0, 6.0))
    parts = crop.packed()
    after, shown = (nibabel.Nifti1Image.from_bytes(unpacked(parts[name])) for name in ("after", "mask"))
    assert after.shape == shown.shape == (20, 20, 8)  # half of the box on each side
    np.testing.assert_allclose(after.affine @ [0, 0, 0, 1], [*pair_mm((5, 4, 6)), 1], atol=1e-5)
    np.testing.assert_allclose(after.affine @ [3, 4, 5, 1], [*pair_mm((8, 8, 11)), 1], atol=1e-5)
    np.testing.assert_allclose(after.affine, shown.affine)
    assert (float(after.header["cal_min"]), float(after.header["cal_max"])) == (0.0, 6.0)
    region = (slice(5, 25), slice(4, 24), slice(6, 14))
    np.testing.assert_allclose(after.get_fdata(), scans["after"][region], atol=9 / 255)
    np.testing.assert_array_equal(shown.get_fdata() > 0, mask[region])
    difference = np.frombuffer(unpacked(parts["before"]), np.uint8).reshape(after.shape, order="F")
    np.testing.assert_array_equal(crop.after - difference, crop.before)  # modulo 256
    assert (difference[shown.get_fdata() == 0] == 0).all()
    assert len(parts["before"]) < len(parts["after"]) / 10


def test_a_large_crop_is_made_coarser_along_its_finest_voxels_first(images, monkeypatch):
    scans, mask = images
    monkeypatch.setattr(crops, "_MOST_VOXELS", 1000)
    crop = make_crop({"after": scans["after"]}, mask, [BOX], GRID, (0.0, 20.0), (0.0, 6.0))
    assert crop.after.shape == (10, 10, 8)
    assert crop.edges_mm == pytest.approx([2.0, 3.0, 3.0])
    assert "before" not in crop.packed()
    first = pair_mm((5.5, 4.5, 6))  # between the first two voxels along both axes
    np.testing.assert_allclose(crop.affine[:3, 3], first)
    low, high = crop.levels
    block = scans["after"][5:7, 4:6, 6].mean()
    assert crop.after[0, 0, 0] == pytest.approx(255 * (block - low) / (high - low), abs=0.51)


def test_levels_reach_from_the_shown_values_to_the_brightest_of_the_tumor(images):
    scans, mask = images
    assert make_crop(scans, mask, [BOX], GRID, (0.0, 20.0), (0.0, 6.0)).levels.tolist() == [0.0, 9.0]
    assert make_crop(scans, mask, [BOX], GRID, (0.0, 8.0), (0.0, 6.0)).levels.tolist() == [0.0, 8.0]
