"""MetaImage and NRRD files hold their own voxels, whole."""

import gzip
import time
import zlib

import numpy as np
import pytest

from tumorgen_cli.data.volumes import read_grid, read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError

GRID = Grid((6, 7, 8), (1.0, 2.0, 3.0))


def noise():
    return np.random.default_rng(0).integers(0, 1000, GRID.shape).astype(np.int16)


def fault_of(path, read=read_grid):
    with pytest.raises(DataError) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert fault.where == str(path)
    return fault


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        (".mha", b"ElementDataFile = LOCAL\n", b"ElementDataFile = /etc/passwd\n"),
        (".mha", b"ElementDataFile = LOCAL\n", b"elementdatafile=LIST\nsecret.raw\n"),
        (".nrrd", b"encoding: gzip\n", b"encoding: raw\ndata file: /etc/passwd\n"),
        (".nrrd", b"encoding: gzip\n", b"encoding: raw\nDataFile: secret.raw\n"),
    ],
)
def test_a_header_that_names_another_file_is_refused(tmp_path, ending, old, new):
    path = tmp_path / f"a{ending}"
    write_volume(path, noise(), GRID)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    fault = fault_of(path)
    assert fault.found.startswith("voxels in '")
    assert fault.expected == "one file"


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("kept", [0.6, 0.99])
def test_a_cut_file_is_noticed(tmp_path, ending, kept):
    path = tmp_path / f"a{ending}"
    write_volume(path, noise(), GRID)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert str(path.stat().st_size) in fault_of(path, read_volume).found


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_flipped_bits_are_noticed(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_volume(path, noise(), GRID)
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 0x10
    path.write_bytes(content)
    fault_of(path, read_volume)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("content", [b"", b"text", b"x" * 2_000_000, b"\x00\xff\n\n"])
def test_a_file_of_another_kind(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    assert fault_of(path).found.startswith(f"{len(content)} bytes that are no ")


@pytest.mark.parametrize(("ending", "pack"), [(".mha", zlib.compress), (".nrrd", gzip.compress)])
def test_a_bomb_is_stopped_at_the_size_of_its_header(tmp_path, ending, pack):
    path = tmp_path / f"a{ending}"
    write_volume(path, noise(), GRID)
    content = path.read_bytes()
    end = content.index(b"LOCAL\n") + 6 if ending == ".mha" else content.index(b"\n\n") + 2
    path.write_bytes(content[:end] + pack(bytes(1 << 26)))
    read_grid(path)  # imports SimpleITK
    started = time.process_time()
    assert "do not unpack to what the header announces" in fault_of(path, read_volume).found
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_the_geometry_is_read_without_the_voxels(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_volume(path, noise(), GRID)
    path.write_bytes(path.read_bytes()[:-100])
    assert read_grid(path).spacing_mm == GRID.spacing_mm
    fault_of(path, read_volume)


def test_any_word_for_packed_voxels_is_understood(tmp_path):
    path = tmp_path / "a.mha"
    write_volume(path, noise(), GRID)
    path.write_bytes(path.read_bytes().replace(b"CompressedData = True", b"CompressedData = 1")[:-100])
    fault_of(path, read_volume)
