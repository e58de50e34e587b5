"""PET series in Bq/ml are SUV by body weight: values worked out by hand, midnight, and each tag that can be missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.dicom import sequence, write_series

from tumorgen_cli.data.hosts import find_hosts
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError

GRID = Grid((6, 5, 3), (4.0, 4.0, 4.0))
STORED = np.arange(90).reshape(6, 5, 3) * 100
HALF_LIFE = 6586.2  # of F-18, in seconds
_FILL_IN = (
    "write the tags into the files (for example with pydicom or dcmodify), or convert the series to SUV, and give the "
    "NIfTI file in place of the folder"
)
_CORRECTED = "take the series that is corrected for attenuation and decay, or leave the folder out"
DOSE = {
    "0018|1072": "100000.00",
    "0018|1074": "350000000",
    "0018|1075": f"{HALF_LIFE}",
}
PET = {
    "x0008_0060": "PT",
    "x0054_1001": "BQML",
    "x0054_1102": "START",
    "x0028_0051": "NORM\\DTIM\\ATTN\\SCAT\\DECY",
    "x0010_1030": "70",
    "x0008_0021": "20240301",
    "x0008_0022": "20240301",
    "x0008_0031": "110000.00",
    "x0008_0032": "110000.00",
}


def write(folder: Path, *doses: dict, **tags) -> None:
    write_series(folder, STORED, GRID, **{**PET, "x0054_0016": sequence(*(doses or (DOSE,))), **tags})


def factor(folder: Path) -> float:
    found, _ = read_volume(folder)
    assert found.dtype == np.float32
    ratio = found[STORED > 0] / STORED[STORED > 0]
    assert ratio == pytest.approx(ratio[0], rel=1e-6)
    return float(ratio[0])


def refused(folder: Path):
    with pytest.raises(DataError) as error:
        find_hosts(folder, ["SUV"])
    (fault,) = error.value.faults
    return fault


def test_a_dose_that_decays_for_an_hour(tmp_path, capsys):
    """70 kg, 350 MBq an hour before: 70 000 g / (350e6 Bq · 2^(-3600 / 6586.2)) = 2e-4 · 1.46065 g/Bq."""
    write(tmp_path / "a")
    assert factor(tmp_path / "a") == pytest.approx(2e-4 * 1.460650, rel=1e-5)
    assert [host.case for host in find_hosts(tmp_path, ["SUV"])] == ["a"]
    assert "PET of 1 scan is read as SUV by body weight: voxels times 0.000292" in capsys.readouterr().err


def test_voxels_that_are_corrected_to_the_injection_need_no_decay(tmp_path):
    write(tmp_path / "a", {"0018|1074": "350000000"}, x0054_1102="ADMIN", x0008_0031=None)
    assert factor(tmp_path / "a") == pytest.approx(2e-4, rel=1e-6)


def test_what_is_in_g_per_ml_stays(tmp_path):
    write_series(tmp_path / "a", STORED, GRID, x0008_0060="PT")
    np.testing.assert_array_equal(read_volume(tmp_path / "a")[0], STORED)


@pytest.mark.parametrize(
    ("dose", "tags"),
    [
        ({"0018|1072": "233000"}, {"x0008_0021": "20240302", "x0008_0031": "003000", "x0008_0032": "003000"}),
        ({"0018|1072": "233000"}, {"x0008_0031": "003000", "x0008_0032": "003000", "x0008_0021": None}),
        (
            {"0018|1078": "20240301233000.00+0100", "0018|1072": None},
            {"x0008_0021": "20240302", "x0008_0031": "003000"},
        ),
        ({"0018|1078": "20231231233000", "0018|1072": "233000"}, {"x0008_0021": None, "x0008_0031": "003000"}),
    ],
)
def test_a_scan_after_midnight_of_a_dose_before(tmp_path, dose, tags):
    """One hour, with and without dates; the time of day alone counts where the scan has no date."""
    tags = {"x0008_0022": "20240302" if tags["x0008_0021"] else None, "x0008_0032": "003000", **tags}
    write(tmp_path / "a", {**DOSE, **dose}, **tags)
    assert factor(tmp_path / "a") == pytest.approx(2e-4 * 1.460650, rel=1e-5)


def test_a_series_made_later_has_the_time_of_its_frames(tmp_path):
    """A bed from 11:06 on, 3 min long, whose counts have their mean time 447.16 s after the scan's start at 11:00."""
    rate = np.log(2) / HALF_LIFE
    middle = np.log(rate * 180 / (1 - np.exp(-rate * 180))) / rate
    assert 89 < middle < 90
    tags = {"x0008_0031": "154500", "x0008_0032": "110600", "x0018_1242": "180000"}
    write(tmp_path / "a", x0054_1300=f"{1000 * (360 + middle):.3f}", **tags)
    assert factor(tmp_path / "a") == pytest.approx(2e-4 * 1.460650, rel=1e-5)
    write(tmp_path / "b", **tags)
    assert "no FrameReferenceTime (0054,1300), although SeriesTime" in refused(tmp_path / "b").found


def test_a_tracer_of_days_needs_the_date_of_its_injection(tmp_path):
    """Zr-89 has a half life of 78.4 h: after six days, 2^(144 / 78.4) times as much weight per dose."""
    slow = {**DOSE, "0018|1075": "282240"}
    write(tmp_path / "a", slow)
    assert refused(tmp_path / "a").found == (
        "in Bq/ml, but no RadiopharmaceuticalStartDateTime (0018,1078) with SeriesDate (0008,0021)"
    )
    write(tmp_path / "a", {**slow, "0018|1078": "20240224110000"})
    assert factor(tmp_path / "a") == pytest.approx(2e-4 * 2 ** (144 / 78.4), rel=1e-5)
    write(tmp_path / "b", {**DOSE, "0018|1078": "20240302110000"})
    told = refused(tmp_path / "b")
    assert (told.found, told.remedy) == ("-24.0 h from injection to scan, with a half life of 1.83 h", _FILL_IN)


@pytest.mark.parametrize(
    ("dose", "tags", "lost"),
    [
        ({}, {"x0010_1030": None}, "PatientWeight (0010,1030)"),
        ({}, {"x0010_1030": "0"}, "PatientWeight (0010,1030)"),
        ({"0018|1074": ""}, {}, "RadionuclideTotalDose (0018,1074)"),
        ({"0018|1075": "x"}, {}, "RadionuclideHalfLife (0018,1075)"),
        ({"0018|1072": None}, {}, "RadiopharmaceuticalStartTime (0018,1072)"),
        ({"0018|1072": "noon"}, {}, "RadiopharmaceuticalStartTime (0018,1072)"),
        ({}, {"x0008_0031": None}, "SeriesTime (0008,0031)"),
        ({}, {"x0008_0032": None}, "AcquisitionTime (0008,0032)"),
        (
            {"0018|1074": None, "0018|1075": None},
            {"x0010_1030": None},
            "PatientWeight (0010,1030), no RadionuclideTotalDose (0018,1074), no RadionuclideHalfLife (0018,1075)",
        ),
    ],
)
def test_a_missing_tag_is_named_and_filled_in(tmp_path, dose, tags, lost):
    write(tmp_path / "a", {**DOSE, **dose}, **tags)
    told = refused(tmp_path)
    assert (told.where, told.found) == (str(tmp_path / "a"), f"in Bq/ml, but no {lost}")
    assert told.remedy == _FILL_IN
    write(tmp_path / "a")
    assert [host.case for host in find_hosts(tmp_path, ["SUV"])] == ["a"]
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    (tmp_path / "a").rmdir()
    write_volume(tmp_path / "b_0000.nii.gz", STORED.astype(np.float32), GRID)
    assert [host.case for host in find_hosts(tmp_path, ["SUV"])] == ["b"]


def test_no_dose_and_two_doses(tmp_path):
    write(tmp_path / "a", x0054_0016=None)
    assert "no RadionuclideTotalDose (0018,1074)" in refused(tmp_path / "a").found
    write(tmp_path / "b", DOSE, DOSE)
    assert refused(tmp_path / "b").found == "2 radiopharmaceuticals"


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"x0028_0051": "NORM\\DECY"}, "CorrectedImage (0028,0051) without ATTN"),
        ({"x0028_0051": "NORM"}, "CorrectedImage (0028,0051) without ATTN and DECY"),
        ({"x0054_1102": "NONE"}, "DecayCorrection (0054,1102) NONE"),
        ({"x0054_1102": None}, "DecayCorrection (0054,1102) missing"),
    ],
)
def test_what_is_not_corrected_is_refused(tmp_path, tags, found):
    write(tmp_path / "a", **tags)
    told = refused(tmp_path)
    assert (told.found, told.remedy) == (found, _CORRECTED)
    write(tmp_path / "a", x0028_0051=None)  # not told what was corrected for, but decay was
    assert [host.case for host in find_hosts(tmp_path, ["SUV"])] == ["a"]


def test_counts_have_the_factors_of_philips(tmp_path):
    """(7053,1000) makes counts SUV, (7053,1009) makes them Bq/ml; without either there is no unit."""
    creator = {"x0054_1001": "CNTS", "x7053_0010": "Philips PET Private Group"}
    write(tmp_path / "a", **creator, x7053_1000="0.5")
    assert factor(tmp_path / "a") == pytest.approx(0.5)
    write(tmp_path / "b", **creator, x7053_1000="0", x7053_1009="3")
    assert factor(tmp_path / "b") == pytest.approx(6e-4 * 1.460650, rel=1e-5)
    write(tmp_path / "c", **creator)
    assert refused(tmp_path / "c").found == "Units (0054,1001) CNTS"
    write(tmp_path / "d", x0054_1001="CNTS", x7053_1000="0.5")  # of whom?
    assert refused(tmp_path / "d").remedy == _FILL_IN
    write(tmp_path / "e", x0054_1001=None)
    assert refused(tmp_path / "e").found == "Units (0054,1001) none"


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    write(tmp_path / "a")
    told = refused(tmp_path)
    assert (told.expected, told.remedy) == ("pydicom", "pip install 'tumorgen[dicom]'")
    monkeypatch.undo()
    assert [host.case for host in find_hosts(tmp_path, ["SUV"])] == ["a"]


@pytest.mark.parametrize("kind", ["LBM", "BSA"])
def test_other_suv_in_g_per_ml_is_refused(tmp_path, kind):
    write(tmp_path / "s", x0054_1001="GML", x0054_1006=kind)
    fault = refused(tmp_path)
    assert (fault.found, fault.expected) == (f"SUVType (0054,1006) {kind}", "BW, which is by body weight")
    write(tmp_path / "s", x0054_1001="GML", x0054_1006="BW")
    assert (read_volume(tmp_path / "s")[0] == STORED).all()
