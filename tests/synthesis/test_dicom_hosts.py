"""DICOM series as hosts: the pairs are NIfTI files, with the voxels of pairs in a NIfTI host."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from support.dicom import write_series
from support.pairs import paint, records

from tumorgen_cli.data.volumes import read_volume, same_geometry, write_volume
from tumorgen_cli.evaluation.filter import _read_host
from tumorgen_cli.synthesis.set_files import read_hosts, read_provenance


def test_pairs_in_a_series_are_those_in_a_nifti_file(workspace, phantoms, tmp_path):
    uptake, grid = read_volume(phantoms.healthy / "Healthy_000_0000.nii.gz")
    slopes = [(float(plane.max()) / 30_000, 0.0) for plane in np.moveaxis(uptake, 2, 0)]
    write_series(tmp_path / "series" / "a" / "study", uptake, grid, slopes, x0008_0060="PT")
    image, read = read_volume(tmp_path / "series" / "a" / "study")
    np.testing.assert_allclose(image, uptake, atol=uptake.max() / 30_000)
    (tmp_path / "nifti").mkdir()
    write_volume(tmp_path / "nifti" / "a_0000.nii.gz", image, read)
    for name in ("series", "nifti"):
        report = paint(workspace, SimpleNamespace(healthy=tmp_path / name), tmp_path / f"pairs_{name}", pairs=2)
        assert report.tally.pairs == 2
    one, two = tmp_path / "pairs_series", tmp_path / "pairs_nifti"
    for path in sorted(one.glob("*Tr/*")):
        other = two / path.relative_to(one)
        assert path.name.endswith(".nii.gz")
        atol = 1e-4 if path.parent.name == "imagesTr" else 0  # voxel edges in NIfTI are of 32 bits
        np.testing.assert_allclose(read_volume(path)[0], read_volume(other)[0], atol=atol)
        assert same_geometry(read_volume(path)[1], grid)
    boxes = [[[tumor["box"] for tumor in line["tumors"]] for line in records(folder)] for folder in (one, two)]
    assert boxes[0] == boxes[1]
    (record, _), files = read_provenance(one), read_hosts(one)["a"]
    assert files == ((tmp_path / "series" / "a" / "study").resolve(),)
    np.testing.assert_array_equal(_read_host(record, files)[0], image)  # as `filter` reads it again
    again = paint(workspace, SimpleNamespace(healthy=tmp_path / "series"), one, pairs=2)
    assert (again.tally.pairs, again.tally.made) == (2, 0)
