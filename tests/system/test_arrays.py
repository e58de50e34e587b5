"""Arrays in a cache: what is damaged is never used."""

import numpy as np
import pytest

from tumorgen_cli.system.arrays import read_arrays, write_arrays

ARRAYS = {"mask": np.random.default_rng(0).integers(0, 255, 5000, np.uint8), "shape": np.array([3, 4, 5])}


def test_arrays_come_back(tmp_path):
    path = tmp_path / "a" / "b.npz"
    assert read_arrays(path) is None
    write_arrays(path, ARRAYS)
    found = read_arrays(path)
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert [p.name for p in path.parent.iterdir()] == ["b.npz"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_a_cut_file_counts_as_missing(tmp_path, share):
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert read_arrays(path) is None


def test_no_flipped_byte_changes_an_array(tmp_path):
    """Bytes that mean nothing, such as dates, may change; no other content may come back."""
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    missing = 0
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = read_arrays(path)
        missing += found is None
        for name in found or {}:
            np.testing.assert_array_equal(found[name], ARRAYS[name])
    assert missing > 300
