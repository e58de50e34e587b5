"""Volumes that take over the packed slabs of another: the same file as packed alone, which every reader reads."""

import gzip
import hashlib
import subprocess
import sys
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from isal import isal_zlib
from support.spoil import edit_header

from tumorgen_cli.data import slabs
from tumorgen_cli.data.slabs import PACKER, Slabs, reverse_axes
from tumorgen_cli.data.volumes import read_grid, read_volume, write_volume, writer_of
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError

SHAPE = (20, 18, 100)
GRID = Grid(SHAPE, (1.5, 2.0, 3.0), (-10.0, 20.0, 30.5))
DTYPES = [np.int16, np.float32, np.uint8]
SLABS = {np.int16: 4, np.float32: 7, np.uint8: 2}  # of 100 planes: 32, 16 and 64 planes
#: planes of the box that a pair changes, and which slabs of int16 that are
BOXES = {"none": (slice(0, 0), set()), "one": (slice(40, 60), {1}), "all": (slice(0, 100), {0, 1, 2, 3})}


def noise(dtype, seed=0):
    values = np.random.default_rng(seed).normal(50, 20, SHAPE)
    return np.clip(values, 0, 200).astype(dtype)


def changed(array, planes):
    pair = array.copy()
    pair[5:9, 6:12, planes] += 7
    return pair


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("box", BOXES)
def test_a_pair_is_the_same_file_as_without_the_hosts_slabs(tmp_path, dtype, box):
    host, (planes, _) = noise(dtype), BOXES[box]
    pair, base = changed(host, planes), Slabs(host, np.dtype(dtype))
    assert len(base) == SLABS[dtype]
    content = write_volume(tmp_path / "pair.nii.gz", pair, GRID, base=base)
    assert content == write_volume(tmp_path / "alone.nii.gz", pair, GRID)
    assert (tmp_path / "pair.nii.gz").read_bytes() == (tmp_path / "alone.nii.gz").read_bytes()
    assert content == hashlib.sha256((tmp_path / "pair.nii.gz").read_bytes()).hexdigest()[:16]
    write_volume(tmp_path / "plain.nii", pair, GRID)
    plain = (tmp_path / "plain.nii").read_bytes()
    assert plain[352:] == pair.tobytes(order="F")
    assert gzip.decompress((tmp_path / "pair.nii.gz").read_bytes()) == plain


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_reader_reads_one_member_to_its_end(tmp_path, dtype):
    host = noise(dtype)
    pair, path = changed(host, slice(40, 60)), tmp_path / "pair.nii.gz"
    write_volume(path, pair, GRID, base=Slabs(host, np.dtype(dtype)))
    subprocess.run(["gzip", "-t", str(path)], check=True)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(), pair)
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), pair)
    np.testing.assert_array_equal(read_volume(path)[0], pair)
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    content = member.decompress(path.read_bytes())
    assert content[352:] == pair.tobytes(order="F")
    assert member.eof
    assert member.unused_data == b""


@pytest.mark.parametrize("box", BOXES)
def test_only_slabs_that_a_box_touches_are_packed_anew(tmp_path, monkeypatch, box):
    host, (planes, touched) = noise(np.int16), BOXES[box]
    base = Slabs(host, host.dtype)
    write_volume(tmp_path / "host.nii.gz", host, GRID, base=base)
    packed, deflate = [], slabs._deflate
    monkeypatch.setattr(slabs, "_deflate", lambda content: packed.append(len(content)) or deflate(content))
    pair = changed(host, planes)
    write_volume(tmp_path / "pair.nii.gz", pair, GRID, base=base)
    assert base.unlike(pair) == touched
    assert len(packed) == 1 + len(touched)  # the header is packed for each file


def test_a_voxel_that_compares_equal_but_has_other_bits_is_written():
    host = np.zeros(SHAPE, np.float32)
    host[0, 0, 0] = np.nan
    base = Slabs(host, host.dtype)
    assert base.unlike(host.copy()) == set()
    pair = host.copy()
    pair[3, 3, 99] = -0.0
    assert base.unlike(pair) == {6}


def test_slabs_have_the_files_data_type(tmp_path):
    """Channels of different types lie in one array; each file keeps its type, rounded and clipped."""
    host = noise(np.float64) + 0.4
    pair = changed(host, slice(40, 60))
    pair[0, 0, 50] = 1e6
    write_volume(tmp_path / "a.nii.gz", pair, GRID, base=Slabs(host, np.dtype(np.int16)))
    found, _ = read_volume(tmp_path / "a.nii.gz")
    assert found.dtype == np.int16
    assert found[0, 0, 50] == 32767
    np.testing.assert_array_equal(found, np.clip(np.rint(pair), -32768, 32767))


def test_the_header_is_the_hosts_geometry_and_nothing_else_of_it(tmp_path):
    host, path = noise(np.int16), tmp_path / "host.nii.gz"
    write_volume(path, host, GRID)
    edit_header(path, lambda header: header.__setitem__("descrip", b"a scanner"))
    edit_header(path, lambda header: header.set_sform(header.get_best_affine() * 1.0, 2))
    write_volume(tmp_path / "pair.nii.gz", host, read_grid(path), path, Slabs(host, host.dtype))
    start = gzip.decompress((tmp_path / "pair.nii.gz").read_bytes())[:352]
    expected = nibabel.Nifti1Header()
    expected.set_data_shape(SHAPE)
    expected.set_data_dtype(np.int16)
    expected.set_xyzt_units("mm", "sec")
    expected["vox_offset"], expected["scl_slope"], expected["scl_inter"] = 352, 1, 0
    known = nibabel.load(path).header
    for name in known:
        if name.startswith(("qform", "sform", "quatern", "qoffset", "srow", "pixdim")):
            expected[name] = known[name]
    assert start == expected.binaryblock + bytes(4)
    assert int(known["sform_code"]) == 2


def test_the_checksum_is_that_of_zlib():
    content = np.random.default_rng(0).bytes(100_000)
    for cut in (0, 1, 30_000, 99_999, 100_000):
        parts = content[:cut], content[cut:]
        crc = isal_zlib.crc32_combine(*map(zlib.crc32, parts), len(parts[1]))
        assert crc == zlib.crc32(content)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.999])
def test_a_cut_file_is_noticed(tmp_path, kept):
    """Also where it is cut on the end of a slab, and its end is that of a sound file."""
    host, path = noise(np.int16), tmp_path / "a.nii.gz"
    base = Slabs(host, host.dtype)
    write_volume(path, host, GRID, base=base)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_volume(path)
    last = len(base.packed(3).content)
    path.write_bytes(whole[: -10 - last] + whole[-10:])  # 10: the last block and the trailer
    with pytest.raises(DataError):
        read_volume(path)


def test_another_volumes_slab_is_noticed(tmp_path):
    path, host = tmp_path / "a.nii.gz", noise(np.int16)
    base = Slabs(host, host.dtype)
    base.packed(0), base.packed(1)
    base._packed[0] = base._packed[1]._replace(crc=base._packed[0].crc)
    write_volume(path, host, GRID, base=base)
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(path)


def test_a_limit_leaves_no_file(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from tumorgen_cli.data.slabs import Slabs; from tumorgen_cli.data.volumes import write_volume\n"
        "from tumorgen_cli.geometry import Grid; noise = np.random.default_rng(0).integers(0, 2**15, (40, 40, 99))\n"
        "noise = noise.astype(np.int16); base = Slabs(noise, noise.dtype)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "write_volume(Path(sys.argv[1]), noise, Grid(noise.shape, (1.0, 1.0, 1.0)), base=base)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")], check=False, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "ulimit -f" in run.stderr
    assert [*tmp_path.iterdir()] == []


def test_the_packer_has_a_name_and_a_version():
    assert writer_of(".nii.gz") == PACKER
    assert PACKER.startswith("isal 1.")
    assert writer_of(".nii") == ""
    assert writer_of(".nrrd") == f"SimpleITK {sitk.Version_VersionString()}"


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 64), (64, 32, 31), (33, 7, 512)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32, np.float64])
def test_axes_are_reversed(shape, dtype):
    array = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    for given in (array, np.asfortranarray(array), array[::-1], np.broadcast_to(array[:1], shape)):
        found = reverse_axes(given)
        np.testing.assert_array_equal(found, given.transpose())
        assert found.flags.c_contiguous
        assert found.dtype == dtype
