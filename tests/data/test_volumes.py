"""Geometry by round trips on a turned, anisotropic grid: what a voxel's place in mm is must never change."""

import gzip
import itertools
import subprocess
import sys
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tumorgen_cli.data import volumes
from tumorgen_cli.data.volumes import resample, same_geometry, working_grid
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.files import hash_file


def place(grid, index):
    """Where an index (voxel centers are whole numbers) lies in mm."""
    return np.array(grid.origin_mm) + np.array(grid.direction).reshape(3, 3) @ (
        np.array(index, float) * np.array(grid.spacing_mm)
    )


def corners(grid):
    """The volume's eight outer corners in mm."""
    return np.array([place(grid, c) for c in itertools.product(*((-0.5, n - 0.5) for n in grid.shape))])


def ramp(grid, slope=(0.3, -0.2, 0.15)):
    """An image that is linear in space: resampling by any order must give it back."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    mm = np.array(grid.origin_mm) + (indices * np.array(grid.spacing_mm)) @ np.array(grid.direction).reshape(3, 3).T
    return (mm @ np.array(slope)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_a_volume_comes_back(tmp_path, grid, dtype):
    array = np.random.default_rng(0).integers(0, 200, grid.shape).astype(dtype)
    volumes.write_volume(tmp_path / "a.nii.gz", array, grid)
    back, found = volumes.read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == dtype
    assert found.shape == grid.shape
    assert same_geometry(grid, found)
    np.testing.assert_allclose(corners(found), corners(grid), atol=1e-3)
    assert same_geometry(volumes.read_grid(tmp_path / "a.nii.gz"), grid)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f4", "|u1"])
def test_a_scan_is_read_in_pieces_and_memory_holds_it_once(tmp_path, ending, dtype):
    array = np.random.default_rng(0).integers(0, 200, (40, 60, 2500)).astype(dtype)
    path = tmp_path / f"a{ending}"
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(array.dtype)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), path)
    volumes.read_grid(path)
    tracemalloc.start()
    found, _ = volumes.read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.c_contiguous
    assert peak < 1.5 * array.nbytes


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lost", [1, 2, 3 * 40 * 30 * 2 + 7, 40 * 30 * 690 * 2])
def test_a_scan_that_ends_within_a_piece_is_refused(tmp_path, ending, lost):
    """Also one whose packed bytes are whole, but are those of fewer voxels."""
    array = np.random.default_rng(0).integers(0, 200, (40, 30, 700)).astype(np.int16)
    path = tmp_path / f"a{ending}"
    volumes.write_volume(path, array, Grid(array.shape, (1.0, 1.0, 1.0)))
    content = gzip.decompress(path.read_bytes()) if ending == ".nii.gz" else path.read_bytes()
    path.write_bytes(gzip.compress(content[:-lost]) if ending == ".nii.gz" else content[:-lost])
    with pytest.raises(DataError) as caught:
        volumes.read_volume(path)
    assert f"truncated: {len(content) - lost} of {len(content)} bytes" in caught.value.faults[0].found


def test_axes_are_simpleitk_index_axes(tmp_path, grid):
    """Voxel [x, y, z] here is GetPixel(x, y, z) there, at the same place in mm."""
    array = np.zeros(grid.shape, np.float32)
    array[5, 2, 7] = 1
    volumes.write_volume(tmp_path / "a.nii.gz", array, grid)
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert image.GetPixel(5, 2, 7) == 1
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((5, 2, 7)), place(grid, (5, 2, 7)), atol=1e-3)


def test_bool_masks_are_written_as_numbers(tmp_path, grid):
    mask = np.zeros(grid.shape, bool)
    mask[1:3] = True
    volumes.write_volume(tmp_path / "m.nii.gz", mask, grid)
    assert volumes.read_volume(tmp_path / "m.nii.gz")[0].dtype == np.uint8


def test_channels_of_other_geometry(tmp_path, grid):
    array = np.zeros(grid.shape, np.float32)
    paths = (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    volumes.write_volume(paths[0], array, grid)
    volumes.write_volume(paths[1], array + 1, grid)
    image, _ = volumes.read_image(paths)
    assert image.shape == (2, *grid.shape)
    assert image[1].min() == 1
    volumes.write_volume(paths[1], array, Grid(grid.shape, (2.0, 3.0, 5.5), grid.origin_mm, grid.direction))
    with pytest.raises(DataError, match="a_0001"):
        volumes.read_image(paths)


def test_a_file_that_is_replaced_is_read_again(tmp_path, grid):
    path = tmp_path / "a.nii.gz"
    array = ramp(grid).astype(np.float32)
    volumes.write_volume(path, array, grid)
    assert same_geometry(volumes.read_grid(path), grid)
    other = Grid(grid.shape, (2.0, 3.0, 5.5), grid.origin_mm, grid.direction)
    volumes.write_volume(path, array, other)
    assert same_geometry(volumes.read_grid(path), other)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        volumes.read_grid(path)


def test_files_that_are_no_volumes(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        volumes.read_volume(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii.gz").write_text("hello")
    with pytest.raises(DataError, match="5 bytes"):
        volumes.read_volume(tmp_path / "text.nii.gz")
    sitk.WriteImage(sitk.Image([4, 4, 3, 2], sitk.sitkFloat32), str(tmp_path / "four.nii.gz"))
    with pytest.raises(DataError, match="3D scalar"):
        volumes.read_volume(tmp_path / "four.nii.gz")


def write_under_a_limit(path, limit):
    """Write noise of 96 kB to a path in a process that may write files of `limit` bytes."""
    code = (
        "import resource, sys; from pathlib import Path; import numpy as np; from tumorgen_cli.data import volumes\n"
        "from tumorgen_cli.geometry import Grid; noise = np.random.default_rng(0).integers(0, 2**15, (40, 40, 30))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "volumes.write_volume(Path(sys.argv[1]), noise.astype(np.int16), Grid(noise.shape, (1.0, 1.0, 1.0)))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(path), str(limit)], check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_volume_that_a_limit_cuts_does_not_get_its_name(tmp_path, ending):
    run = write_under_a_limit(tmp_path / f"a{ending}", 60_000)
    assert "ulimit -f" in run.stderr
    assert [*tmp_path.iterdir()] == []
    assert write_under_a_limit(tmp_path / f"a{ending}", 200_000).returncode == 0


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_volume_that_simpleitk_writes_wrong_does_not_get_its_name(tmp_path, grid, monkeypatch, ending):
    write = sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", lambda image, *args, **options: write(image * 2, *args, **options))
    with pytest.raises(StateError, match="not what was written"):
        volumes.write_volume(tmp_path / f"a{ending}", np.ones(grid.shape, np.float32), grid)

    def broken(*_, **__):
        raise RuntimeError("itk::ERROR: something")

    monkeypatch.setattr(sitk, "WriteImage", broken)
    with pytest.raises(StateError, match="something"):
        volumes.write_volume(tmp_path / f"a{ending}", np.ones(grid.shape, np.float32), grid)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i2", ">f4"])
def test_voxels_and_geometry_are_those_that_simpleitk_reads(tmp_path, grid, ending, dtype):
    array = np.random.default_rng(0).integers(0, 100, grid.shape).astype(dtype)
    path = tmp_path / f"a{ending}"
    assert volumes.write_volume(path, array, grid) == hash_file(path)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(), array)
    voxels, found = volumes.read_volume(path)
    np.testing.assert_array_equal(voxels, array)
    assert voxels.dtype == sitk.GetArrayFromImage(image).dtype == array.dtype.newbyteorder("=")
    assert (found.spacing_mm, found.origin_mm) == (image.GetSpacing(), image.GetOrigin())
    np.testing.assert_allclose(found.spacing_mm, grid.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(found.origin_mm, grid.origin_mm, rtol=1e-6)
    np.testing.assert_allclose(found.direction, grid.direction, atol=1e-6)


def test_a_nifti_file_has_the_geometry_that_simpleitk_would_write(tmp_path):
    """To the last digit in the header, for turned, mirrored and anisotropic grids."""
    rng = np.random.default_rng(0)
    for number in range(20):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        spacing, origin = rng.uniform(0.3, 6, 3), rng.uniform(-900, 900, 3)
        grid = Grid((5, 6, 7), tuple(spacing.tolist()), tuple(origin.tolist()), tuple(turn.ravel().tolist()))
        array = rng.normal(size=grid.shape).astype(np.float32)
        ours, theirs = tmp_path / f"{number}.nii.gz", tmp_path / f"{number}_itk.nii.gz"
        volumes.write_volume(ours, array, grid)
        sitk.WriteImage(volumes.to_sitk(array[None], grid), str(theirs))
        found, expected = (sitk.ReadImage(str(path)) for path in (ours, theirs))
        np.testing.assert_allclose(found.GetSpacing(), expected.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(found.GetOrigin(), expected.GetOrigin(), rtol=1e-6)
        np.testing.assert_allclose(found.GetDirection(), expected.GetDirection(), atol=1e-6)
        ours_header, theirs_header = (nibabel.load(path).header for path in (ours, theirs))
        assert (ours_header["qform_code"], ours_header["sform_code"]) == (1, 1)
        np.testing.assert_allclose(ours_header.get_best_affine(), theirs_header.get_best_affine(), rtol=1e-5, atol=1e-5)
        assert ours_header["xyzt_units"] == theirs_header["xyzt_units"]


def test_a_subgrid_of_whole_voxels_is_the_slice(grid):
    box = Box((2, 1, 3), (9, 8, 7))
    part = grid.subgrid(box.start, grid.spacing_mm, box.shape)
    np.testing.assert_allclose(place(part, (0, 0, 0)), place(grid, box.start), atol=1e-9)
    image = np.random.default_rng(1).normal(size=grid.shape).astype(np.float32)
    np.testing.assert_allclose(resample(image, grid, part, "linear"), image[box.slices], atol=1e-5)
    np.testing.assert_array_equal(resample(image, grid, part, "nearest"), image[box.slices])


def test_a_subgrids_corner_lies_at_start(grid):
    """`start` counts from the outer corner, so it may be fractional and the spacing another."""
    part = grid.subgrid((1.5, -2.0, 0.25), (1.0, 4.0, 2.5), (6, 5, 4))
    np.testing.assert_allclose(place(part, (-0.5,) * 3), place(grid, (1.0, -2.5, -0.25)), atol=1e-9)
    assert part.direction == grid.direction
    np.testing.assert_allclose(
        np.linalg.norm(corners(part)[0] - corners(part)[-1]), np.linalg.norm(part.extent_mm), atol=1e-9
    )


def test_the_working_grid_covers_the_same_extent(grid):
    """Voxel counts are rounded, so the far corner may be off by half a working voxel, the near one by nothing."""
    onto = working_grid(grid, (3.1, 3.1, 3.1))
    assert onto.shape == (8, 10, 13)
    np.testing.assert_allclose(corners(onto)[0], corners(grid)[0], atol=1e-9)
    assert all(abs(a - b) <= 3.1 / 2 for a, b in zip(onto.extent_mm, grid.extent_mm, strict=True))
    assert working_grid(grid, grid.spacing_mm) == grid or np.allclose(
        corners(working_grid(grid, grid.spacing_mm)), corners(grid)
    )
    np.testing.assert_allclose(corners(working_grid(grid, (4.0, 6.0, 10.0))), corners(grid), atol=1e-9)
    assert working_grid(grid, (1000.0, 3.0, 5.0)).shape == (1, 10, 8)


def test_voxel_volume(grid):
    assert grid.voxel_ml == pytest.approx(0.03)
    assert grid.extent_mm == (24.0, 30.0, 40.0)


@pytest.mark.parametrize("order", ["nearest", "linear", "cubic"])
def test_resampling_onto_itself_changes_nothing(grid, order):
    image = np.random.default_rng(2).normal(size=grid.shape).astype(np.float32)
    same = resample(image, grid, grid, order)
    np.testing.assert_array_equal(same, image)
    same[0] = 9  # and it is a copy
    assert image[0].max() < 9
    again = Grid(grid.shape, grid.spacing_mm, tuple(o + 1e-9 for o in grid.origin_mm), grid.direction)
    np.testing.assert_allclose(resample(image, grid, again, order), image, atol=2e-5)


@pytest.mark.parametrize(("order", "atol"), [("linear", 1e-4), ("cubic", 0.02)])
def test_a_linear_image_stays_what_it_is_in_space(grid, order, atol):
    onto = grid.subgrid((2.25, 2.5, 1.75), (1.7, 2.1, 3.3), (9, 8, 7))
    found = resample(ramp(grid), grid, onto, order)
    middle = (slice(1, -1),) * 3  # B-splines see the source's edge a little further in
    np.testing.assert_allclose(found[middle], ramp(onto)[middle], atol=atol)


def test_there_and_back(grid):
    image = np.asarray(
        sitk.GetArrayFromImage(
            sitk.SmoothingRecursiveGaussian(
                sitk.GetImageFromArray(np.random.default_rng(3).normal(size=grid.shape).astype(np.float32)), 2.0
            )
        )
    )
    fine = working_grid(grid, tuple(s / 2 for s in grid.spacing_mm))
    back = resample(resample(image, grid, fine, "cubic"), fine, grid, "linear")
    assert np.abs(back - image)[1:-1, 1:-1, 1:-1].max() < 0.1 * np.abs(image).max()


def test_outside_the_nearest_voxel_continues(grid):
    image = np.full(grid.shape, 7.0, np.float32)
    wide = grid.subgrid((-4.0, -4.0, -4.0), grid.spacing_mm, tuple(n + 8 for n in grid.shape))
    for order in ("nearest", "linear", "cubic"):
        np.testing.assert_allclose(resample(image, grid, wide, order), 7.0, atol=1e-4)


def test_cubic_never_overshoots(grid):
    step = np.zeros(grid.shape, np.float32)
    step[6:] = 100
    fine = working_grid(grid, (0.5, 3.0, 5.0))
    found = resample(step, grid, fine, "cubic")
    assert (found.min(), found.max()) == (0, 100)
    assert ((found > 1) & (found < 99)).any()


def test_labels_keep_their_type(grid):
    labels = np.random.default_rng(4).integers(0, 3, grid.shape).astype(np.uint8)
    found = resample(labels, grid, working_grid(grid, (1.0, 1.0, 1.0)), "nearest")
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1, 2}


def test_same_geometry_sees_what_matters(grid):
    assert same_geometry(grid, Grid(grid.shape, (2.0005, 3.0, 5.0), (-31.505, 12.25, 400.0), grid.direction))
    turned = Grid(grid.shape, grid.spacing_mm, grid.origin_mm)
    for other in (
        Grid((12, 10, 9), grid.spacing_mm, grid.origin_mm, grid.direction),
        Grid(grid.shape, (2.0, 3.0, 5.1), grid.origin_mm, grid.direction),
        Grid(grid.shape, grid.spacing_mm, (-31.5, 13.25, 400.0), grid.direction),
        turned,
    ):
        assert not same_geometry(grid, other)
