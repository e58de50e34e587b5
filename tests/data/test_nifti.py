"""NIfTI files of the field: each gives the right values, or is refused with its cause and a remedy that works."""

import bz2
import gzip
import os
import resource
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from support.spoil import edit_header

from tumorgen_cli.data import volumes
from tumorgen_cli.data.hosts import find_hosts
from tumorgen_cli.data.volumes import read_grid, read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError

SHAPE = (6, 7, 8)


@pytest.fixture
def path(tmp_path):
    """A sound scan."""
    write_volume(tmp_path / "a.nii.gz", noise(), Grid(SHAPE, (1.0, 2.0, 3.0)))
    return tmp_path / "a.nii.gz"


def noise():
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def fault_of(path, read=read_volume):
    with pytest.raises(DataError) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert fault.where == str(path)
    return fault


def test_a_file_that_is_not_packed_though_its_name_says_so(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(read_volume(path)[0], noise())
    assert read_grid(path).spacing_mm == (1.0, 2.0, 3.0)


def test_a_packed_file_whose_name_does_not_say_so(path):
    path = path.rename(path.with_suffix(""))
    fault = fault_of(path)
    assert (fault.found, fault.remedy) == ("packed by gzip", "rename it to a.nii.gz")
    np.testing.assert_array_equal(read_volume(path.rename(path.with_name("a.nii.gz")))[0], noise())


def test_bzip2(path):
    path.write_bytes(bz2.compress(gzip.decompress(path.read_bytes())))
    fault = fault_of(path, read_grid)
    assert "bzip2" in fault.found
    subprocess.run(fault.remedy.split(": ")[1], shell=True, cwd=path.parent, check=True)
    np.testing.assert_array_equal(read_volume(path.with_name("NEW.nii.gz"))[0], noise())


def test_nifti_2(path):
    image = nibabel.Nifti2Image(noise(), np.diag([-1.0, -2.0, 3.0, 1.0]))
    image.to_filename(path)
    fault = fault_of(path, read_grid)
    assert fault.found == "NIfTI-2, which SimpleITK does not read"
    command = fault.remedy.split("nibabel: ")[1].removesuffix(")").replace("FILE", repr(str(path)))
    subprocess.run([sys.executable, "-c", f"import nibabel; from nibabel import Nifti1Image; {command}"], check=True)
    voxels, grid = read_volume(path)
    np.testing.assert_array_equal(voxels, noise())
    assert grid.spacing_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(("unit", "name"), [("meter", "meters"), ("micron", "micrometers")])
def test_lengths_that_are_not_in_mm(path, unit, name):
    edit_header(path, lambda header: header.set_xyzt_units(unit))
    fault = fault_of(path, read_grid)
    assert (fault.found, fault.expected) == (f"lengths in {name}", "lengths in mm")
    assert 'set_xyzt_units("mm")' in fault.remedy
    edit_header(path, lambda header: header.set_xyzt_units("mm"))
    assert read_grid(path).spacing_mm == (1.0, 2.0, 3.0)


def test_no_unit_is_mm(path):
    edit_header(path, lambda header: header.set_xyzt_units(0))
    assert read_grid(path).spacing_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("edge", [0.0, np.nan, np.inf])
def test_voxel_edges_that_cannot_be(path, edge):
    edit_header(path, lambda header: header["pixdim"].__setitem__(2, edge))
    fault = fault_of(path, read_grid)
    assert fault.found == f"voxels of 1×{edge:g}×3 mm"
    assert "set_zooms" in fault.remedy
    edit_header(path, lambda header: header.set_zooms((1, 2, 3)))
    assert read_grid(path).spacing_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dim", [3, 0, 7, 8, 1, 1, 1, 1]), ("dim", [9, 6, 7, 8, 1, 1, 1, 1]), ("datatype", 999), ("vox_offset", np.nan)],
)
def test_a_damaged_header(path, field, value):
    edit_header(path, lambda header: header.__setitem__(field, value))
    assert fault_of(path, read_grid).found.startswith("a damaged header")


def test_the_header_of_a_pair_of_files(path):
    edit_header(path, lambda header: header.__setitem__("magic", b"ni1"))
    assert ".hdr/.img" in fault_of(path, read_grid).found


@pytest.mark.parametrize(("slope", "inter"), [(2.0, 5.0), (0.5, 0.0), (1.0, -1024.0)])
def test_scaled_voxels_are_scaled_as_simpleitk_does(path, slope, inter):
    edit_header(path, lambda header: header.set_slope_inter(slope, inter))
    voxels, _ = read_volume(path)
    np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose())
    np.testing.assert_allclose(voxels, noise() * slope + inter)


@pytest.mark.parametrize("axes", [4, 5])
def test_axes_of_one_voxel_do_not_count(path, axes):
    edit_header(path, lambda header: header.__setitem__("dim", [axes, *SHAPE, 1, 1, 1, 1]))
    np.testing.assert_array_equal(read_volume(path)[0], noise())


def test_not_a_number_is_read_as_such(tmp_path):
    """SimpleITK reads it as 0, and nobody is told."""
    array = noise().astype(np.float32)
    array[1, 2, 3] = np.nan
    write_volume(tmp_path / "a.nii.gz", array, Grid(SHAPE, (1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0], array)


@pytest.mark.parametrize("place", [0.5, -6])
def test_flipped_bits_are_noticed(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 0x10
    path.write_bytes(content)
    assert "damaged" in fault_of(path).found


@pytest.mark.parametrize("kept", [0.65, 0.8, 0.99])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_cut_file_is_noticed_though_what_is_missing_is_zeros(tmp_path, kept, ending):
    """SimpleITK replaces missing bytes with zeros."""
    path, array = tmp_path / f"a{ending}", noise()
    array[:, :, 3:] = 0
    write_volume(path, array, Grid(SHAPE, (1.0, 1.0, 1.0)))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert "truncated" in fault_of(path).found
    fault_of(path, read_grid)


def test_a_gzip_bomb_is_stopped_at_the_size_of_its_header(path):
    """4 GiB of zeros behind a small volume; no more than the header's size, and a little, is unpacked."""
    content = gzip.decompress(path.read_bytes())
    zeros = gzip.compress(bytes(1 << 24))
    path.write_bytes(gzip.compress(content) + zeros * 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fault = fault_of(path)
    assert fault.found == f"more than the {len(content)} bytes that its header announces"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_header_that_announces_more_than_the_file_can_hold(path):
    edit_header(path, lambda header: header.__setitem__("dim", [3, 32767, 32767, 32767, 1, 1, 1, 1]))
    fault = fault_of(path)
    assert fault.found == f"truncated: {352 + 2 * noise().size} of {352 + 2 * 32767**3} bytes"


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "link.nii.gz").symlink_to(".git/annex/objects/aa")
    fault = fault_of(tmp_path / "link.nii.gz")
    assert fault.found == "a link to nothing (.git/annex/objects/aa)"
    assert "datalad get" in fault.remedy
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert fault_of(tmp_path / "pipe.nii.gz").found == "a pipe or device"
    (tmp_path / "folder.nii.gz").mkdir()
    assert fault_of(tmp_path / "folder.nii.gz").found == "a folder"


def test_a_file_that_may_not_be_read(path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", denied)
    assert "Permission denied" in fault_of(path).found


@pytest.mark.parametrize("shear", [0.002, 0.3])
def test_axes_that_are_not_perpendicular_are_read_as_nnunet_does(tmp_path, shear, capfd):
    """nnU-Net reads such files through nibabel: the voxels, and the lengths of the axes as spacing."""
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    affine[1, 2], affine[:3, 3] = shear * 4, (10, 20, 30)
    image = nibabel.Nifti1Image(noise(), affine)
    image.set_sform(affine, 1)
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    voxels, grid = read_volume(path)
    np.testing.assert_array_equal(voxels, nibabel.load(path).get_fdata())
    np.testing.assert_allclose(grid.spacing_mm, nibabel.load(path).header.get_zooms(), rtol=1e-6)
    turn = np.array(grid.direction).reshape(3, 3)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    write_volume(tmp_path / "pair.nii.gz", voxels, grid, like=path)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "pair.nii.gz").affine, nibabel.load(path).affine)
    assert read_grid(tmp_path / "pair.nii.gz") == grid
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codes", [(1, 2), (2, 1), (1, 0), (0, 1), (0, 0), (1, 4)])
def test_both_matrices_of_a_host_stay(tmp_path, codes):
    """SimpleITK reads one of qform and sform, other programs the other; here they are 30 mm apart."""
    qform = np.diag([-4.0, -4.0, 4.0, 1.0])
    qform[:3, 3] = 10, 20, 30
    turn = np.array([[np.cos(0.17), -np.sin(0.17), 0], [np.sin(0.17), np.cos(0.17), 0], [0, 0, 1]])
    sform = qform.copy()
    sform[:3, :3], sform[:3, 3] = qform[:3, :3] @ turn, (40, -10, 5)
    image = nibabel.Nifti1Image(noise(), None)
    image.header.set_qform(qform, codes[0])
    image.header.set_sform(sform, codes[1])
    host, pair = tmp_path / "host.nii.gz", tmp_path / "pair.nii.gz"
    image.to_filename(host)
    voxels, grid = read_volume(host)
    write_volume(pair, voxels, grid, like=host)
    found, expected = (nibabel.load(path).header for path in (pair, host))
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "qoffset_x", "quatern_d", "pixdim"):
        np.testing.assert_array_equal(found[field], expected[field], err_msg=field)
    np.testing.assert_array_equal(nibabel.load(pair).affine, nibabel.load(host).affine)
    assert read_grid(pair) == grid


def test_a_scan_of_another_format_gives_no_matrices(tmp_path):
    grid = Grid(SHAPE, (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))
    write_volume(tmp_path / "host.mha", noise(), grid)
    write_volume(tmp_path / "pair.nii.gz", noise(), grid, like=tmp_path / "host.mha")
    assert read_grid(tmp_path / "pair.nii.gz") == grid
    assert volumes.same_geometry(read_grid(tmp_path / "host.mha"), grid)


def test_the_byte_order_of_a_file_does_not_matter(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.Nifti1Image(noise(), np.eye(4), header).to_filename(tmp_path / "a.nii.gz")
    voxels, _ = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(voxels, noise())
    assert voxels.dtype == np.int16


@pytest.mark.parametrize(("shear", "degrees"), [(0.002, None), (0.3, "16.7")])
def test_scans_of_a_tilted_gantry_are_told(tmp_path, shear, degrees, capsys):
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    affine[1, 2] = shear * 4
    image = nibabel.Nifti1Image(noise(), affine)
    image.set_sform(affine, 1)
    image.to_filename(tmp_path / "a_0000.nii.gz")
    find_hosts(tmp_path, ["CT"])
    said = " ".join(capsys.readouterr().err.split())
    assert (degrees is None) == (said == "")
    assert degrees is None or f"axes up to {degrees}° off perpendicular in 1 scan (a_0000.nii.gz)" in said


def test_complex_voxels(path):
    nibabel.Nifti1Image(noise().astype(np.complex64), np.eye(4)).to_filename(path)
    assert fault_of(path).found == "complex numbers"


@pytest.mark.parametrize("place", [np.nan, np.inf])
def test_a_place_that_is_no_number(path, place):
    def move(header):
        header["srow_x"][3] = header["qoffset_x"] = place

    edit_header(path, move)
    fault = fault_of(path, read_grid)
    assert fault.expected == "a geometry of finite numbers"
    assert f"origin ({-place:.0f}" in fault.found
