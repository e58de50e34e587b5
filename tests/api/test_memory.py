"""Painting in memory comes to the same voxels as painting into files, whatever kind of image is given."""

import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from support.pairs import beyond

from tumorgen_cli import api
from tumorgen_cli.api.images import read_memory
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import DataError, PlanError

BOX = api.Box((10, 10, 10), (24, 24, 22))


@pytest.fixture(scope="module", params=["copypaste", "syntumor"])
def method(request):
    return request.param


@pytest.fixture(scope="module")
def made(workspace, phantoms, method, tmp_path_factory):
    """A set of one pair in files, and its folder: the host, the image, the mask, the record."""
    out = tmp_path_factory.mktemp("files")
    options = {"method": method, "work": workspace.root, "device": "cpu"}
    api.synthesize(api.HostOptions(phantoms.healthy, box=BOX), 1, out=out / "box", **options)
    api.synthesize(api.HostOptions(phantoms.healthy), 1, out=out / "drawn", **options)
    return out


def host_file(phantoms):
    return min(phantoms.healthy.iterdir())


def painted(folder):
    (record,) = read_provenance(folder)
    image, _ = read_volume(folder / "imagesTr" / f"{record.case}_0000.nii.gz")
    labels, _ = read_volume(folder / "labelsTr" / f"{record.case}.nii.gz")
    return record, image, labels == 1


@pytest.mark.parametrize("place", ["box", "drawn"])
def test_the_same_pair_as_in_files(workspace, phantoms, method, made, place):
    record, image, mask = painted(made / place)
    host, grid = read_volume(host_file(phantoms))
    box = BOX if place == "box" else None
    options = {"box": box, "method": method, "work": workspace.root, "device": "cpu", "seed": record.seed}
    pair = api.paint(host, grid.spacing_mm, **options)
    np.testing.assert_array_equal(pair.image, image)
    np.testing.assert_array_equal(pair.mask, mask)
    assert (pair.image.dtype, pair.mask.dtype) == (host.dtype, bool)
    assert (pair.provenance.boxes, pair.provenance.volume_ml) == (record.boxes, record.volume_ml)
    assert pair.provenance.host_voxels == record.host_voxels
    outside = beyond(host.shape, pair.provenance.boxes)
    np.testing.assert_array_equal(pair.image[outside], host[outside])


def test_the_same_pair_from_every_kind_of_image(workspace, phantoms, made, method):
    """The geometry of a nibabel image is that of the SimpleITK image of the same file."""
    record, image, mask = painted(made / "box")
    options = {"box": BOX, "method": method, "work": workspace.root, "device": "cpu", "seed": record.seed}
    of_nibabel, of_sitk = nibabel.load(host_file(phantoms)), sitk.ReadImage(str(host_file(phantoms)))
    one, other = read_memory(of_nibabel, None).grid, read_memory(of_sitk, None).grid
    for field in ("spacing_mm", "origin_mm", "direction"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), atol=1e-4)

    pair = api.paint(of_nibabel, **options)
    assert isinstance(pair.image, type(of_nibabel))
    np.testing.assert_allclose(np.asanyarray(pair.image.dataobj), image, rtol=1e-4)
    of_nifti = np.asanyarray(pair.mask.dataobj) > 0
    assert mask.any()
    assert 2 * (of_nifti & (mask > 0)).sum() / (of_nifti.sum() + (mask > 0).sum()) > 0.99
    np.testing.assert_array_equal(pair.mask.affine, of_nibabel.affine)
    assert pair.mask.get_data_dtype() == np.uint8

    pair = api.paint(of_sitk, **options)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(pair.image).transpose(2, 1, 0), image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(pair.mask).transpose(2, 1, 0), mask)
    assert pair.image.GetSpacing() == of_sitk.GetSpacing()
    assert pair.mask.GetDirection() == of_sitk.GetDirection()


def test_a_region_holds_the_center_of_the_box(workspace, phantoms):
    host, grid = read_volume(host_file(phantoms))
    region = np.zeros(host.shape, bool)
    region[10:24, 10:24, 10:24] = True  # with room for a tumor
    options = {"method": "syntumor", "work": workspace.root, "device": "cpu"}
    pair = api.paint(host[None], grid.spacing_mm, region=region, **options)
    assert pair.image.shape == (1, *host.shape)
    assert pair.mask.shape == host.shape
    for tumor in pair.provenance.tumors:
        assert all(9 <= int(c) <= 24 for c in tumor.requested_box.center)


def test_channels_keep_their_order():
    channels = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    of_nibabel = nibabel.Nifti1Image(np.moveaxis(channels, 0, -1), np.diag([2, 3, 4, 1.0]))
    of_sitk = sitk.Compose([sitk.GetImageFromArray(channel.transpose(2, 1, 0)) for channel in channels])
    for image in (of_nibabel, of_sitk):
        found = read_memory(image, None)
        np.testing.assert_array_equal(found.channels, channels)
        again = read_memory(found.as_image(found.channels), None)
        np.testing.assert_array_equal(again.channels, channels)
        assert again.grid == found.grid


def test_what_cannot_be_painted_is_said(workspace, phantoms):
    host, grid = read_volume(host_file(phantoms))
    options = {"method": "syntumor", "work": workspace.root, "device": "cpu"}
    region = np.ones(host.shape, bool)
    with pytest.raises(PlanError, match="spacing is not clear"):
        api.paint(host, **options)
    with pytest.raises(PlanError, match="spacing is not clear"):
        api.paint(nibabel.load(host_file(phantoms)), grid.spacing_mm, **options)
    with pytest.raises(PlanError, match="both given"):
        api.paint(host, grid.spacing_mm, box=BOX, region=region, **options)
    with pytest.raises(PlanError, match="--solver rk4"):
        api.paint(host, grid.spacing_mm, sampling=api.Sampling(solver="rk4"), **options)
    for wrong, message in [
        ({"box": api.Box((-1, 0, 0), (9, 9, 9))}, "outside the scan"),
        ({"region": region[1:]}, "differ in geometry"),
        ({"region": region & False}, "no voxel set"),
    ]:
        with pytest.raises(DataError, match=message):
            api.paint(host, grid.spacing_mm, **wrong, **options)
    moved = nibabel.load(host_file(phantoms))
    flipped = nibabel.Nifti1Image(region.astype(np.uint8), moved.affine @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(DataError, match="differ in geometry"):
        api.paint(moved, region=flipped, **options)
    for spacing in ((1, 1), (0, 1, 1), (-1, 1, 1), (1, 1, np.nan)):
        with pytest.raises(PlanError, match="three positive numbers"):
            api.paint(host, spacing, **options)
    with pytest.raises(DataError, match="2 channels"):
        api.paint(np.stack([host, host]), grid.spacing_mm, **options)
    with pytest.raises(DataError, match="every voxel is 0"):
        api.paint(host * 0, grid.spacing_mm, **options)
    with pytest.raises(DataError, match="not a 3D scan"):
        api.paint(host[0], grid.spacing_mm, **options)
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    with pytest.raises(DataError, match="right angles"):
        api.paint(nibabel.Nifti1Image(host, sheared), **options)


def test_a_method_stays_loaded_until_its_files_change(workspace, phantoms, tmp_path, monkeypatch):
    from tumorgen_cli.methods.copypaste import CopyPaste

    shutil.copytree(workspace.root, tmp_path / "work")
    loads, load = [], CopyPaste.load
    monkeypatch.setattr(CopyPaste, "load", lambda self: loads.append(1) or load(self))
    host, grid = read_volume(host_file(phantoms))
    options = {"box": BOX, "method": "copypaste", "work": tmp_path / "work", "device": "cpu", "seed": 3}
    first, second = (api.paint(host, grid.spacing_mm, **options) for _ in range(2))
    assert len(loads) == 1
    np.testing.assert_array_equal(first.image, second.image)
    record = min((tmp_path / "work" / "cases").glob("*/case.json"))
    record.write_text(record.read_text() + " ")
    api.paint(host, grid.spacing_mm, **options)
    assert len(loads) == 2
