"""PET series in Bq/ml or counts: the factor that makes their voxels SUV by body weight, from the tags of the slices.

Source: The facts are those of the vendor-neutral pseudo-code for SUV of QIBA's profile for FDG-PET/CT. Deviations: GE's
    private time of the scan is not read: the time is computed from the frames of any vendor. Dose that was corrected
    for decay to the injection (ADMIN) is read, too. Dates of injections are used where tracers live longer than a day.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli.data import nifti
from tumorgen_cli.system.errors import DataError, Fault

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

INSTALL = "pip install 'tumorgen[dicom]'"
_REMEDY = (
    "write the tags into the files (for example with pydicom or dcmodify), or convert the series to SUV, and give the "
    "NIfTI file in place of the folder"
)
_CORRECTED = "take the series that is corrected for attenuation and decay, or leave the folder out"
_EXPECTED = "a PET series with what makes its voxels SUV by body weight"
_DOSE = "RadiopharmaceuticalInformationSequence"
_TAGS = (
    *("Units", "SUVType", "CorrectedImage", "DecayCorrection", "PatientWeight", _DOSE, "SeriesDate", "SeriesTime"),
    *("AcquisitionDate", "AcquisitionTime", "FrameReferenceTime", "ActualFrameDuration"),
)
_PHILIPS, _PHILIPS_GROUP = "Philips PET Private Group", 0x7053
_PHILIPS_TAGS = (0x70530010, 0x70531000, 0x70531009)
_FRAME = {
    "FrameReferenceTime": "FrameReferenceTime (0054,1300)",
    "ActualFrameDuration": "ActualFrameDuration (0018,1242)",
}
_DAY = timedelta(days=1)
_NO_DATE = date(2000, 1, 1)  # of times without a date, which are compared with each other alone
_HALF_LIVES = 10  # after more of them a thousandth of the dose is left, and nothing is measured


def suv_factor(folder: Path, files: Sequence[Path]) -> float:
    """The factor of a PET series; 1 for one that is in g/ml.

    Args:
        folder: The folder of the series, for error messages.
        files: Its files.

    Raises:
        DataError: a tag is missing or cannot be, the series is not corrected for attenuation and decay, or pydicom is
            missing, which reads the dose.
    """
    try:
        import pydicom
    except ImportError as error:
        found = "a PET series; pydicom, which reads its dose, is not installed"
        raise _refused(Fault(str(folder), found, "pydicom", INSTALL)) from error
    tags: list[Any] = [*_TAGS, *_PHILIPS_TAGS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values against the standard, which this module judges itself
        try:
            slices = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in files]
        except Exception as error:  # pydicom raises many kinds for a damaged file
            found = f"tags that cannot be read ({type(error).__name__}: {str(error)[:120]})"
            raise _refused(Fault(str(folder), found, _EXPECTED, nifti.COPY_AGAIN)) from error
        return _factor(folder, slices)


def _factor(folder: Path, slices: Sequence[Dataset]) -> float:
    """The factor of a series, by the tags of its slices; see `suv_factor`."""
    units = {str(each.get("Units") or "none") for each in slices}
    if units == {"GML"}:
        if others := {str(each.get("SUVType") or "BW") for each in slices} - {"BW"}:
            found = f"SUVType (0054,1006) {' and '.join(sorted(others))}"
            raise _refused(Fault(str(folder), found, "BW, which is by body weight", _REMEDY))
        return 1.0
    first, activity = slices[0], 1.0
    if units == {"CNTS"}:
        if factor := _philips(first, 0x00):
            return factor
        activity = _philips(first, 0x09)
    if not (units == {"BQML"} or (units == {"CNTS"} and activity)):
        found = f"Units (0054,1001) {' and '.join(sorted(units))}"
        raise _refused(Fault(str(folder), found, "BQML, GML, or CNTS with the factor of Philips", _REMEDY))
    if fault := _correction_fault(folder, slices):
        raise _refused(fault)
    return activity * _weight_per_dose(folder, slices)


def _refused(fault: Fault) -> DataError:
    return DataError("A PET series cannot be read as SUV", [fault])


def _philips(first: Dataset, element: int) -> float:
    """A private factor of Philips: 0x00 from counts to SUV, 0x09 from counts to Bq/ml; 0 if there is none."""
    try:
        return float(first.private_block(_PHILIPS_GROUP, _PHILIPS)[element].value or 0)
    except (KeyError, TypeError, ValueError):
        return 0.0


def _correction_fault(folder: Path, slices: Sequence[Dataset]) -> Fault | None:
    """The fault of a series that is not corrected for attenuation or decay, or not in the same way."""
    corrected = [[str(word) for word in _listed(each.get("CorrectedImage"))] for each in slices]
    lost = sorted({word for words in corrected if words for word in ("ATTN", "DECY") if word not in words})
    if lost:
        found = f"CorrectedImage (0028,0051) without {' and '.join(lost)}"
        return Fault(str(folder), found, "ATTN and DECY", _CORRECTED)
    decay = {str(each.get("DecayCorrection") or "missing") for each in slices}
    if len(decay) > 1 or not decay <= {"START", "ADMIN"}:
        return Fault(
            str(folder), f"DecayCorrection (0054,1102) {' and '.join(sorted(decay))}", "START or ADMIN", _CORRECTED
        )
    return None


def _listed(value: Any) -> list[Any]:
    """The values of a tag that may have one, several or none."""
    if value is None or isinstance(value, str):
        return [value] if value else []
    return [*value] if isinstance(value, Sequence) else [value]


def _weight_per_dose(folder: Path, slices: Sequence[Dataset]) -> float:
    """The body weight in g by the dose in Bq that is left at the time to which the voxels are corrected."""
    first = slices[0]
    doses = _listed(first.get(_DOSE))
    if len(doses) > 1:
        raise _refused(Fault(str(folder), f"{len(doses)} radiopharmaceuticals", "one", _REMEDY))
    dose: Any = doses[0] if doses else {}
    numbers = {
        "PatientWeight (0010,1030)": _number(first, "PatientWeight"),
        "RadionuclideTotalDose (0018,1074)": _number(dose, "RadionuclideTotalDose"),
    }
    if str(first.DecayCorrection) == "START":
        numbers["RadionuclideHalfLife (0018,1075)"] = _number(dose, "RadionuclideHalfLife")
    if lost := [name for name, number in numbers.items() if number <= 0]:
        raise _lacking(folder, lost)
    weight, total, *half_life = numbers.values()
    if not half_life:  # corrected to the injection
        return 1000 * weight / total
    delay = _delay(slices, dose, half_life[0])
    if isinstance(delay, str):
        raise _lacking(folder, [delay])
    if not 0 <= delay <= _HALF_LIVES * half_life[0]:
        found = f"{delay / 3600:.1f} h from injection to scan, with a half life of {half_life[0] / 3600:.2f} h"
        raise _refused(Fault(str(folder), found, f"0 to {_HALF_LIVES} half lives", _REMEDY))
    return 1000 * weight / (total * 2 ** (-delay / half_life[0]))


def _lacking(folder: Path, tags: Sequence[str]) -> DataError:
    return _refused(Fault(str(folder), f"in Bq/ml, but no {', no '.join(tags)}", _EXPECTED, _REMEDY))


def _number(tags: Dataset, name: str) -> float:
    """The number of a tag; 0 if it is missing or none."""
    try:
        number = float(tags.get(name) or 0)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _delay(slices: Sequence[Dataset], dose: Dataset, half_life: float) -> float | str:
    """The seconds from the injection to the time to which the voxels are corrected; or the tag that is missing."""
    scan = _scan_time(slices, half_life)
    if isinstance(scan, str):
        return scan
    full = _parsed(dose, "RadiopharmaceuticalStartDateTime")
    if full is not None and _parsed(slices[0], "SeriesDate") is not None:
        return (scan - full.replace(tzinfo=None)).total_seconds()
    if half_life > _DAY.total_seconds():  # the time of day does not tell on which day
        return "RadiopharmaceuticalStartDateTime (0018,1078) with SeriesDate (0008,0021)"
    clock = _parsed(dose, "RadiopharmaceuticalStartTime") or (full and full.time())
    if clock is None:
        return "RadiopharmaceuticalStartTime (0018,1072)"
    return (scan - datetime.combine(scan, clock)) % _DAY / timedelta(seconds=1)  # of the last 24 hours


def _scan_time(slices: Sequence[Dataset], half_life: float) -> datetime | str:
    """The time to which the voxels are corrected; or the tag that is missing.

    It is that of the series. Of a series that was made after its acquisition, as by a workstation, the time is computed
    from a frame: its beginning, and the mean time of its counts, from which the frame's reference time is counted.
    """
    series = _moment(slices[0], "Series", _NO_DATE)
    if series is None:
        return "SeriesTime (0008,0031)"
    times = [_moment(each, "Acquisition", series) for each in slices]
    known = [(acquired, number) for number, acquired in enumerate(times) if acquired is not None]
    if len(known) < len(times):
        return "AcquisitionTime (0008,0032)"
    acquired, number = min(known)
    if series <= acquired:
        return series
    reference, duration = (_number(slices[number], name) / 1000 for name in _FRAME)
    if min(reference, duration) <= 0:
        lost = _FRAME["FrameReferenceTime" if reference <= 0 else "ActualFrameDuration"]
        return f"{lost}, although SeriesTime (0008,0031) is after AcquisitionTime (0008,0032)"
    rate = math.log(2) / half_life
    middle = math.log(rate * duration / -math.expm1(-rate * duration)) / rate
    return acquired + timedelta(seconds=middle - reference)


def _moment(tags: Dataset, what: str, day: date) -> datetime | None:
    """The date and time of the series or of an acquisition; `day` where the tags have no date; None without a time."""
    clock = _parsed(tags, f"{what}Time")
    return None if clock is None else datetime.combine(_parsed(tags, f"{what}Date") or day, clock)


def _parsed(tags: Dataset, name: str) -> Any:
    """The date, the time, or both, of a tag, as its name says; None if it is missing or none."""
    from pydicom.valuerep import DA, DT, TM

    parse = DT if name.endswith("DateTime") else TM if name.endswith("Time") else DA
    try:
        return parse(str(tags.get(name) or "")) or None
    except ValueError:
        return None
