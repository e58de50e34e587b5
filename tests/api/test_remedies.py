"""What is said about images in memory works when it is followed."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import nibabel.processing
import numpy as np
import pytest
import SimpleITK as sitk

from tumorgen_cli import api
from tumorgen_cli.api.images import read_memory
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.synthesis import pair as pair_module
from tumorgen_cli.system.errors import TumorgenError

ONE_SCAN = "give one 3D scan, with one or several channels"
GIVE_SPACING = "give spacing_mm=(x, y, z), the edges of a voxel in mm"


def remedies(function, *arguments, **options):
    with pytest.raises(TumorgenError) as error:
        function(*arguments, **options)
    return [fault.remedy for fault in error.value.faults]


def voxels(*shape):
    return np.random.default_rng(1).normal(5, 1, shape).astype(np.float32)


def test_the_spacing_is_given_once_as_told():
    array = voxels(9, 8, 7)
    for wrong in (None, (1, 1), (0, 1, 1)):
        assert remedies(read_memory, array, wrong) == [GIVE_SPACING]
    assert read_memory(array, (1, 2, 3)).grid.spacing_mm == (1.0, 2.0, 3.0)
    image = nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]))
    assert remedies(read_memory, image, (1, 2, 3)) == ["leave it out"]
    assert read_memory(image, None).grid.spacing_mm == (1.0, 2.0, 3.0)


def test_one_scan_is_given_as_told():
    assert remedies(read_memory, voxels(9, 8), (1, 1, 1)) == [ONE_SCAN]
    assert remedies(read_memory, sitk.GetImageFromArray(voxels(9, 8)), None) == [ONE_SCAN]
    assert read_memory(voxels(9, 8, 7), (1, 1, 1)).channels.shape == (1, 9, 8, 7)
    assert read_memory(voxels(2, 9, 8, 7), (1, 1, 1)).channels.shape == (2, 9, 8, 7)


def test_a_sheared_image_is_resampled_by_the_printed_line():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 1] = 1.0
    image = nibabel.Nifti1Image(voxels(9, 8, 7), affine)
    (remedy,) = remedies(read_memory, image, None)
    assert remedy == "resample it along its axes (nibabel.processing.resample_to_output(image, (X, Y, Z)), in mm)"
    found = read_memory(nibabel.processing.resample_to_output(image, (2, 2, 2)), None)
    assert found.grid.spacing_mm == (2.0, 2.0, 2.0)
    assert found.channels.max() == pytest.approx(image.get_fdata().max(), abs=2)


def test_places_and_channels_are_given_as_told(workspace, phantoms, monkeypatch):
    path = min(phantoms.healthy.iterdir())
    host, grid = read_volume(path)
    box = api.Box((10, 10, 10), (24, 24, 22))
    options = {"method": "syntumor", "work": workspace.root, "device": "cpu", "trust_units": True}

    def refused(image, spacing=grid.spacing_mm, **more):
        return remedies(api.paint, image, spacing, **more, **options)

    region = np.ones(host.shape, np.uint8)
    assert refused(np.stack([host, host]), box=box) == ["give an image with these channels, in this order"]
    assert refused(host, box=box, region=region) == ["leave one out"]
    assert refused(host, region=region * 0) == ["mark with 1 where tumors may be"]
    nearest = "resample it onto the image, by nearest neighbor"
    assert refused(host, region=region[1:]) == [nearest]
    image = nibabel.load(path)
    coarse = nibabel.processing.resample_to_output(nibabel.Nifti1Image(region, image.affine), 20, order=0)
    assert refused(image, None, region=coarse) == [nearest]
    aligned = nibabel.processing.resample_from_to(coarse, image, order=0)
    pair = api.paint(image, region=aligned, **options)
    assert np.asarray(pair.mask.dataobj).sum() > 0
    with monkeypatch.context() as patch:
        real = pair_module.draw_pair
        patch.setattr(pair_module, "draw_pair", lambda *a: replace(real(*a), tumors=[], left_out=[{"empty": 3}]))
        assert refused(host, box=box) == ["try another seed, box or region, or train longer"]
    assert api.paint(host, grid.spacing_mm, box=box, seed=2, **options).mask.any()
