"""Folders of DICOM series as hosts: read as ITK reads them, and each fault told with a remedy that works."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from support.dicom import write_series, write_slice

from tumorgen_cli.data.dicom import find_series
from tumorgen_cli.data.hosts import find_hosts
from tumorgen_cli.data.volumes import read_grid, read_volume, same_geometry, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError
from tumorgen_cli.system.files import file_size, hash_once

SHAPE = (12, 10, 8)
_EXPORT = "export the whole series again, or leave the folder out"
_CONVERT = "convert it to a NIfTI file (for example with dcm2niix), and give the file in place of the folder"


@pytest.fixture
def hu() -> np.ndarray:
    """Even numbers: a slope of 2 loses none."""
    return np.random.default_rng(0).integers(-500, 500, SHAPE) * 2


def fault(folder: Path, channels=("CT",)):
    """The only fault of the hosts in a folder."""
    with pytest.raises(DataError) as error:
        find_hosts(folder, channels)
    (found,) = error.value.faults
    return found


def cases(folder: Path, channels=("CT",)) -> list[str]:
    return [host.case for host in find_hosts(folder, channels)]


def test_a_turned_series_is_read_as_itk_reads_it(tmp_path, grid, hu):
    write_series(tmp_path / "a", hu, grid, [(2.0, -1024.0)])
    found, read = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(found, hu)
    assert found.dtype == np.int16
    assert same_geometry(read, grid)
    assert read_grid(tmp_path / "a") == read
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "a")))
    image = reader.Execute()
    other = Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    assert same_geometry(read, other)
    np.testing.assert_array_equal(found, SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0))
    written = np.array(read.direction).reshape(3, 3)
    np.testing.assert_allclose(written @ written.T, np.eye(3), atol=1e-12)


def test_each_slice_has_its_own_slope(tmp_path, grid):
    """PET: ITK's reader of series would cut all slices to whole numbers because the slope of the first one is 1."""
    uptake = np.random.default_rng(0).random(SHAPE) * 9
    slopes = [(1.0 if index == SHAPE[2] - 1 else 1e-3 * (index + 1), 0.0) for index in range(SHAPE[2])]
    write_series(tmp_path / "a", uptake, grid, slopes, x0008_0060="PT")
    found, _ = read_volume(tmp_path / "a")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :, :-1], uptake[:, :, :-1], atol=4e-3)
    np.testing.assert_allclose(found[:, :, -1], np.rint(uptake[:, :, -1]))
    assert cases(tmp_path, ["PET"]) == ["a"]


def test_large_values_stay(tmp_path, grid):
    """Bq/ml exceed 16 bits."""
    values = np.full(SHAPE, 30_000)
    write_series(tmp_path / "a", values * 4, grid, [(4.0, 0.0)], x0008_0060="PT")
    found, _ = read_volume(tmp_path / "a")
    assert (found.dtype, found.max()) == (np.int32, 120_000)


def test_names_are_as_short_as_they_tell_series_apart(tmp_path, grid, hu):
    one = hu[:, :, :2], replace(grid, shape=(*SHAPE[:2], 2))
    for name in ("p1/2020-01-01/thorax", "p2/2020-01-01/thorax", "p2/2021-01-01/thorax", "p2/2021-01-01/liver", "p3"):
        write_series(tmp_path / name, *one)
    (tmp_path / "p3" / "notes.txt").write_text("DICM")
    (tmp_path / "p4").mkdir()
    write_series(tmp_path / ".hidden", *one)
    (tmp_path / "round").symlink_to(tmp_path)
    names = ["p1", "p2-2020-01-01", "p2-2021-01-01-liver", "p2-2021-01-01-thorax", "p3"]
    assert sorted(find_series(tmp_path).values()) == names
    assert cases(tmp_path) == names
    assert cases(tmp_path / "p3") == ["p3"]


def test_series_and_nifti_files_mix(tmp_path, grid, hu):
    write_series(tmp_path / "b", hu, grid)
    write_volume(tmp_path / "a_0000.nii.gz", hu.astype(np.int16), grid)
    assert cases(tmp_path) == ["a", "b"]
    write_volume(tmp_path / "b_0000.nii.gz", hu.astype(np.int16), grid)
    found = fault(tmp_path)
    assert (found.found, found.remedy) == ("the same channel as b_0000.nii.gz", "remove one of them")
    shutil.rmtree(tmp_path / "b")
    assert cases(tmp_path) == ["a", "b"]


def test_files_of_a_series_may_lie_in_the_folder_itself(tmp_path, grid, hu):
    for path in write_series(tmp_path / "scan", hu, grid):
        path.rename(path.with_suffix(".dcm"))
    (host,) = find_hosts(tmp_path / "scan", ["CT"])
    assert (host.case, host.files) == ("scan", (tmp_path / "scan",))


def test_channels_are_folders_with_numbers(tmp_path, grid, hu):
    write_series(tmp_path / "x_0000", hu, grid, x0008_0060="MR")
    write_series(tmp_path / "T1", hu, grid, x0008_0060="MR")
    with pytest.raises(DataError) as error:
        find_hosts(tmp_path, ["FLAIR", "T1"])
    found = {each.where: each.remedy for each in error.value.faults}
    assert found[str(tmp_path / "T1")] == "rename it to T1_0000 if it is channel 0"
    (tmp_path / "T1").rename(tmp_path / "x_0001")
    (host,) = find_hosts(tmp_path, ["FLAIR", "T1"])
    assert (host.case, [path.name for path in host.files]) == ("x", ["x_0000", "x_0001"])


def test_another_modality_is_refused(tmp_path, grid, hu):
    write_series(tmp_path / "a", hu, grid, x0008_0060="MR")
    found = fault(tmp_path)
    assert (found.found, found.expected) == ("DICOM modality MR", "channel CT (CT, in HU)")
    assert found.remedy == "take hosts with the channels of the training set, in its order"
    assert cases(tmp_path, ["T2"]) == cases(tmp_path, ["unknown"]) == cases(tmp_path, ["noNorm"]) == ["a"]
    write_series(tmp_path / "a", hu, grid)
    assert cases(tmp_path) == ["a"]


def test_series_of_one_folder_are_put_apart(tmp_path, grid, hu):
    write_series(tmp_path / "a", hu, grid, x0008_103e="Thorax 1.0")
    for path in write_series(tmp_path / "scout", hu, grid, order=[0, 1]):
        path.rename(tmp_path / "a" / f"scout{path.name}")
    (tmp_path / "scout").rmdir()
    found = fault(tmp_path)
    assert found.found == "2 DICOM series (CT Thorax 1.0: 8 files; CT: 2 files)"
    assert (
        found.remedy == "move the files of each series into a folder of its own, and leave out series that are no host"
    )
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").glob("scout*"):
        path.rename(tmp_path / "b" / path.name)
    assert cases(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ([0, 1, 2, 4, 5, 6, 7], "1 slice missing: 10 mm between"),
        ([0, 1, 2, 5, 6, 7], "2 slices missing: 15 mm between"),
        ([0, 1, 2, 2, 3], "1 slice in the place of another one"),
        ([3], "a single slice"),
    ],
)
def test_a_series_is_exported_whole(tmp_path, grid, hu, order, found):
    write_series(tmp_path / "a", hu, grid, order=order)
    told = fault(tmp_path)
    assert told.found.startswith(found)
    assert told.remedy == _EXPORT
    write_series(tmp_path / "a", hu, grid)
    assert cases(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"x0028_1053": None}, "no rescale slope and intercept in 8 of 8 files"),
        ({"x0028_1053": "0"}, "a rescale slope of 0"),
        ({"x0028_0004": "MONOCHROME1"}, "colors MONOCHROME1"),
    ],
)
def test_values_without_a_scale_are_exported_again(tmp_path, grid, hu, tags, found):
    write_series(tmp_path / "a", hu, grid, **tags)
    told = fault(tmp_path)
    assert (told.found, told.remedy) == (found, _EXPORT)
    shutil.rmtree(tmp_path / "a")
    write_series(tmp_path / "b", hu, grid)
    assert cases(tmp_path) == ["b"]


def spoil_one(folder: Path, hu, grid, shape=SHAPE[:2], **tags) -> None:
    """Replaces a slice by another one."""
    order = [index for index in range(SHAPE[2]) if index != 4]
    write_series(folder, hu, grid, order=order, x0020_000e="1.2.3")
    one = np.resize(hu, (*shape, SHAPE[2])), replace(grid, shape=(*shape, SHAPE[2]))
    (other,) = write_series(folder / "new", *one, order=[4], x0020_000e="1.2.3", **tags)
    other.rename(folder / "other")
    (folder / "new").rmdir()


@pytest.mark.parametrize(
    ("shape", "tags", "found"),
    [
        ((9, 9), {}, "slices of 12×10 and 9×9 voxels"),
        (SHAPE[:2], {"x0028_0030": "1\\1"}, "voxel edges 3.000000\\2.000000 and 1\\1 mm"),
        (SHAPE[:2], {"x0020_0037": "1\\0\\0\\0\\1\\0"}, "slices of several orientations (IM0000, other)"),
    ],
)
def test_slices_that_differ_are_exported_again(tmp_path, grid, hu, shape, tags, found):
    spoil_one(tmp_path / "a", hu, grid, shape, **tags)
    told = fault(tmp_path)
    assert (told.found, told.remedy) == (found, _EXPORT)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"x0020_0032": None}, "no position (0020|0032) in 8 files, as IM0000"),
        ({"x0020_0037": "1\\0\\x"}, "no orientation (0020|0037) in 8 files, as IM0000"),
        ({"x0028_0030": "0\\1"}, "voxel edges 0\\1 mm"),
        ({"x0020_0037": "1\\0\\0\\0.5\\0.5\\0"}, "axes 1\\0\\0\\0.5\\0.5\\0"),
    ],
)
def test_what_is_no_stack_is_converted(tmp_path, grid, hu, tags, found):
    write_series(tmp_path / "a", hu, grid, **tags)
    told = fault(tmp_path)
    assert (told.found, told.remedy) == (found, _CONVERT)
    shutil.rmtree(tmp_path / "a")
    write_volume(tmp_path / "a_0000.nii.gz", hu.astype(np.int16), grid)
    assert cases(tmp_path) == ["a"]


def test_frames_tilts_and_uneven_distances_are_converted(tmp_path, hu):
    grid = Grid(SHAPE, (1.0, 1.0, 2.0))
    for index in range(SHAPE[2]):
        shift = 2 * index * math.tan(math.radians(15))
        own = {"0020|000e": "1.2.3", "0020|0037": "1\\0\\0\\0\\1\\0", "0028|0030": "1\\1"}
        write_slice(tmp_path / "tilt" / f"{index}", hu[..., index], own | {"0020|0032": f"0\\{shift:.5f}\\{2 * index}"})
        height = 2 * index + (0.7 if index > 4 else 0)
        write_slice(tmp_path / "uneven" / f"{index}", hu[..., index], own | {"0020|0032": f"0\\0\\{height}"})
    write_slice(tmp_path / "frames" / "one", hu, own | {"0020|0032": "0\\0\\0", "0028|0008": str(SHAPE[2])})
    with pytest.raises(DataError) as error:
        find_hosts(tmp_path, ["CT"])
    found = {Path(each.where).name: each.found for each in error.value.faults}
    assert found["tilt"] == "slices shifted by 15.0° (a tilted gantry)"
    assert found["uneven"].startswith("uneven distances of slices: 2.7 mm between 8 and 10.7 mm along the normal, 2 mm")
    assert found["frames"] == "files of 8 frames"
    assert {each.remedy for each in error.value.faults} == {_CONVERT}
    for name in ("tilt", "uneven", "frames"):
        shutil.rmtree(tmp_path / name)
        write_volume(tmp_path / f"{name}_0000.nii.gz", hu.astype(np.int16), grid)
    assert cases(tmp_path) == ["frames", "tilt", "uneven"]


def test_a_damaged_slice_is_copied_again(tmp_path, grid, hu):
    paths = write_series(tmp_path / "a", hu, grid)
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[:-50])
    with pytest.raises(DataError) as error:
        read_volume(tmp_path / "a")
    assert error.value.faults[0].where == str(paths[3])
    assert error.value.faults[0].remedy == "copy or export the file again"
    paths[3].write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "a")[0], hu)


def test_a_folder_without_slices_is_no_scan(tmp_path):
    with pytest.raises(DataError) as error:
        read_grid(tmp_path)
    assert error.value.faults[0].found == "a folder"


def test_the_hash_of_a_series_follows_its_files(tmp_path, grid, hu):
    paths = write_series(tmp_path / "a", hu, grid)
    before = hash_once(tmp_path / "a")
    assert file_size(tmp_path / "a") == sum(path.stat().st_size for path in paths)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert hash_once(tmp_path / "b") == before
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert hash_once(tmp_path / "a") != before
    assert read_volume(tmp_path / "a")[0].tolist() != hu.tolist()
