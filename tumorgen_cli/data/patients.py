"""Whose scans the cases are: scans of one patient are never on both sides of a split.

A CSV file (`case,patient`) names the patient of each case. It may also name those of other scans, such as hosts. A scan
without a line is a patient of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.hosts import match_cases
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, say_count
from tumorgen_cli.system.files import write_text

#: the file beside dataset.json that is read if no other file is given
PATIENTS = "patients.csv"
_COLUMNS = ("case", "patient")
_HEAD = "write case,patient as its first line"
_REMEDY = "write a line for each case, for example: case_001,patient_07"

Patients = Mapping[str, str]


def find_patients(dataset: Dataset, file: Path | None, planned: Patients | None = None) -> dict[str, str]:
    """Find the patients of a data set's cases.

    Args:
        dataset: The data set.
        file: The file that the user names. None: `patients.csv` of the data set, else what was planned before.
        planned: The patients of an earlier plan.

    Returns:
        The patient of each case, and of each other scan in the file; empty where patients are not known.

    Raises:
        DataError: the file cannot be used; all faults are listed.
    """
    own = dataset.path / PATIENTS
    path = file if file is not None else own if own.is_file() else None
    if path is not None:
        return read_patients(path, dataset.cases)
    if not planned:
        return {}
    if new := sorted({*dataset.cases} - {*planned}):
        found = f"no patient for {say_count(len(new), 'new case')} ({new[0]} ...)"
        remedy = "give a file that names the patient of every case (--groups FILE)"
        raise DataError("Patients are not known", [Fault("splits.json", found, "a patient of each case", remedy)])
    console.note("patients: as planned before")
    return dict(planned)


def read_patients(path: Path, cases: Sequence[str]) -> dict[str, str]:
    """Read the patient of each case from a CSV file with the columns case and patient.

    Args:
        path: The file; other columns and other scans are allowed.
        cases: The cases that it must name.

    Raises:
        DataError: the file cannot be read, lacks a column, a case or a patient, or names two patients of a case; all
            faults are listed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fault = Fault(str(path), str(error), "a CSV file with the columns case and patient", "correct the path")
        raise DataError("Patients cannot be read", [fault]) from error
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True, dialect=_dialect(text))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        found = f"no column {' and '.join(missing)} in its first line"
        raise DataError("Patients cannot be read", [Fault(str(path), found, "the columns case,patient", _HEAD)])
    patients: dict[str, str] = {}
    faults = []
    for number, line in enumerate(reader, 2):
        case, patient = ((line[name] or "").strip() for name in _COLUMNS)
        where = f"{path}, line {number}"
        if not case or not patient:
            faults.append(Fault(where, "no case or no patient", "both", _REMEDY))
        elif patients.setdefault(case, patient) != patient:
            remedy = "leave one of the lines out"
            faults.append(Fault(where, f"{case} of {patient}, above of {patients[case]}", "one patient a case", remedy))
    faults += [
        Fault(f"{path}: {case}", "no line", "the patient of each case of the data set", _REMEDY)
        for case in cases
        if case not in patients
    ]
    if faults:
        raise DataError("Patients cannot be read", faults)
    return patients


def _dialect(text: str) -> type[csv.Dialect]:
    """Return the dialect by the first line: spreadsheets of some languages separate by semicolons or tabs."""
    first = text.split("\n", 1)[0]
    return type("Separated", (csv.excel,), {"delimiter": max(",;\t", key=first.count)})


def write_patients(folder: Path, patients: Patients) -> None:
    """Write `patients.csv` into a data set; without patients, remove it."""
    if not patients:
        (folder / PATIENTS).unlink(missing_ok=True)
        return
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_COLUMNS, *sorted(patients.items())])
    write_text(folder / PATIENTS, stream.getvalue())


def patient_of(scan: str, patients: Patients) -> str:
    """Return the patient of a scan: itself where it has no line."""
    return patients.get(scan, scan)


def group_cases(cases: Iterable[str], patients: Patients) -> dict[str, list[str]]:
    """Group cases by patient, patients and cases sorted by name."""
    groups: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: (patient_of(case, patients), case)):
        groups.setdefault(patient_of(case, patients), []).append(case)
    return groups


def scans_of_same_patients(scans: Iterable[str], cases: Iterable[str], patients: Patients) -> dict[str, str]:
    """Find the scans that are of a patient of the cases, without being one of them.

    Returns:
        For each such scan, words for `data.hosts.describe_matches`.
    """
    cases = set(cases)
    known = {patient_of(case, patients): case for case in sorted(cases) if case in patients}
    return {
        scan: f"a scan of the patient of {known[patients[scan]]}"
        for scan in scans
        if scan not in cases and patients.get(scan) in known
    }


def match_held_out(
    scans: Mapping[str, Path], dataset: Dataset, held_out: Sequence[str], patients: Patients
) -> dict[str, str]:
    """Find the scans that are held-out cases, by name or voxels, or other scans of their patients.

    Args:
        scans: The file of the first channel of each scan, by the name of the scan.
        dataset: The data set.
        held_out: Its held-out cases.
        patients: The patients, by the names of cases and scans.

    Returns:
        For each such scan its case, or words, for `data.hosts.describe_matches`.
    """
    same_patient = scans_of_same_patients(scans, held_out, patients)
    return same_patient | match_cases(scans, dataset, held_out)


def straddling_faults(where: str, parts: Mapping[str, Iterable[str]], patients: Patients, remedy: str) -> list[Fault]:
    """Return a fault for each patient with cases in more than one part.

    Args:
        where: The file of the parts.
        parts: The cases of each part by its name.
        patients: The patients.
        remedy: What the user should do.
    """
    seen: dict[str, dict[str, str]] = {}
    for part, cases in parts.items():
        for case in sorted(cases):
            seen.setdefault(patient_of(case, patients), {}).setdefault(part, case)
    return [
        Fault(
            f"{where}: patient {patient}",
            ", ".join(f"{case} in {part}" for part, case in found.items()),
            "all scans of a patient in one part",
            remedy,
        )
        for patient, found in sorted(seen.items())
        if len(found) > 1
    ]
