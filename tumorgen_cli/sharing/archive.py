"""A model as one zip file: written with checksums, and read as a file of somebody unknown.

Nothing in a model is compressed: weights do not shrink, and a file that is no larger than what is in it is no bomb. Of
a file that is read, every name, size, kind and checksum is checked before anything takes its place. JSON, Markdown and
safetensors are the only kinds: none of them can hold code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from tumorgen_cli.sharing.record import CARD, MODEL_FORMAT, RECORD, FileSum, ModelRecord, model_name_faults
from tumorgen_cli.system.errors import DataError, Fault, PlanError
from tumorgen_cli.system.files import atomic, write_parts
from tumorgen_cli.system.json_records import from_plain, to_plain
from tumorgen_cli.system.names import is_safe_name

#: files of every model beside its record
NEEDED = (CARD, "plan.json", "fingerprint.json", "splits.json")
_KINDS = (".json", ".md", ".safetensors")
#: a text of a model, in bytes: the facts of 50,000 training tumors take as much
_LARGEST_TEXT = 64 * 2**20
_CHUNK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same file
_AGAIN = "ask for the file as `tumorgen export` wrote it, or download it again"


def sum_file(path: Path) -> FileSum:
    """The checksum and the size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return FileSum(digest.hexdigest(), path.stat().st_size)


def write_archive(folder: Path, record: ModelRecord, path: Path) -> None:
    """Write the files that a record lists, and the record, into a zip; it is read again before it takes its name.

    Args:
        folder: where the files lie, by their names in the record.
        record: the record.
        path: the zip file.

    Raises:
        StateError: no space left, or a folder that cannot be written.
    """
    with atomic(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps(to_plain(record), indent=1).encode()
            archive.writestr(zipfile.ZipInfo(RECORD, _DATE), text)
            for name in record.files:
                with (folder / name).open("rb") as source, archive.open(zipfile.ZipInfo(name, _DATE), "w") as target:
                    while chunk := source.read(_CHUNK):
                        target.write(chunk)
        read_archive(temporary, None)


def read_archive(path: Path, folder: Path | None) -> ModelRecord:
    """Check a model's zip file, and write its files into an empty folder.

    Args:
        path: the zip file; of anyone.
        folder: where its files go; None: it is only checked.

    Returns:
        Its record.

    Raises:
        DataError: the file is no model, or has anything in it that a model does not have; all of it is listed, and
            nothing is written.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = _check_members(path, archive)
            record = _read_record(path, archive)
            _check_files(path, record, members)
            _check_sums(path, archive, record)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place in the file that cannot be, says the damaged directory of a zip
            raise
        raise _unreadable(path, error) from error
    if folder is not None:
        with zipfile.ZipFile(path) as archive:
            for name in (RECORD, *record.files):
                write_parts(folder.joinpath(*PurePosixPath(name).parts), _chunks(archive, name))
    return record


def _unreadable(path: Path, error: Exception) -> DataError:
    found = f"no zip file that can be read ({error})"[:200]
    return DataError("The file is no model", [Fault(str(path), found, "a model of `tumorgen export`", _AGAIN)])


def _check_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Check names, kinds and sizes of what is in the zip, without reading any of it.

    Raises:
        DataError: something is no file of a model.
    """
    faults, known = list[Fault](), dict[str, zipfile.ZipInfo]()
    for member in archive.infolist():
        where, name = f"{path}: {member.filename!r}"[:300], member.filename
        parts = name.split("/")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not all(map(is_safe_name, parts)) or ":" in name or member.orig_filename != name:
            faults.append(Fault(where, "a name that leads out of its folder", "a name inside the model", _AGAIN))
        elif kind not in (0, stat.S_IFREG) or member.is_dir():
            faults.append(Fault(where, "a link, a folder or a device", "a file", _AGAIN))
        elif not name.endswith(_KINDS):
            faults.append(Fault(where, "another kind of file", f"only {', '.join(_KINDS)}", _AGAIN))
        elif name in known:
            faults.append(Fault(where, "twice in the file", "once", _AGAIN))
        elif member.flag_bits & 1 or member.compress_type != zipfile.ZIP_STORED:
            faults.append(Fault(where, "compressed or encrypted", "stored as it is", _AGAIN))
        elif not name.endswith(".safetensors") and member.file_size > _LARGEST_TEXT:
            expected = f"at most {_LARGEST_TEXT:,} bytes of text"
            faults.append(Fault(where, f"{member.file_size:,} bytes", expected, _AGAIN))
        known[name] = member
    total, size = sum(member.file_size for member in known.values()), path.stat().st_size
    if total > size:
        faults.append(Fault(str(path), f"{total:,} bytes in a file of {size:,}", "no more than the file has", _AGAIN))
    if RECORD not in known:
        faults.append(Fault(str(path), f"no {RECORD}", "a model of `tumorgen export`", _AGAIN))
    if faults:
        raise DataError("The file is no model", faults)
    return known


def _read_record(path: Path, archive: zipfile.ZipFile) -> ModelRecord:
    """Read the record of a model.

    Raises:
        DataError: it is no record, or one of another version.
    """
    try:
        plain = json.loads(archive.read(RECORD).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        fault = Fault(f"{path}: {RECORD}", str(error)[:200], "valid JSON", _AGAIN)
        raise DataError("The file is no model", [fault]) from error
    version = plain.get("format") if isinstance(plain, dict) else None
    if version != MODEL_FORMAT:
        found, expected = f"format {version!r}"[:100], f"format {MODEL_FORMAT}, of this version of TumorGen"
        remedy = "use the version of TumorGen that wrote it, or ask for a model of this version"
        raise DataError("The model is of another version", [Fault(f"{path}: {RECORD}", found, expected, remedy)])
    return parse_record(plain, f"{path}: {RECORD}")


def parse_record(plain: object, where: str) -> ModelRecord:
    """Read a record from JSON values.

    Raises:
        DataError: it does not fit, or its name is none.
    """
    try:
        record = from_plain(ModelRecord, plain, where, _AGAIN)
    except PlanError as error:
        raise DataError("The record of a model is damaged", error.faults) from error
    if faults := model_name_faults(f"{where}: name", record.name):
        raise DataError("The record of a model is damaged", faults)
    return record


def _check_files(path: Path, record: ModelRecord, members: Mapping[str, zipfile.ZipInfo]) -> None:
    """Check that the zip has the files of the record, each of the size that it says, and no others."""
    faults = [
        Fault(f"{path}: {name!r}"[:300], "not in the record", f"only files that {RECORD} lists", _AGAIN)
        for name in sorted({*members} - {*record.files} - {RECORD})
    ]
    for name in dict.fromkeys((*record.files, *NEEDED)):
        where, known = f"{path}: {name!r}"[:300], record.files.get(name)
        if name not in members:
            faults.append(Fault(where, "missing", f"a file of every model, or one that {RECORD} lists", _AGAIN))
        elif known is not None and members[name].file_size != known.bytes:
            found = f"{members[name].file_size:,} bytes"
            faults.append(Fault(where, found, f"{known.bytes:,}, as the record says", _AGAIN))
    if faults:
        raise DataError("The model is damaged", faults)


def _check_sums(path: Path, archive: zipfile.ZipFile, record: ModelRecord) -> None:
    """Check that every file has the checksum of the record."""
    faults = []
    for name, known in record.files.items():
        digest = hashlib.sha256()
        for chunk in _chunks(archive, name):
            digest.update(chunk)
        if digest.hexdigest() != known.sha256:
            found, expected = f"checksum {digest.hexdigest()[:16]}", f"{known.sha256[:16]}, as the record says"
            faults.append(Fault(f"{path}: {name}", found, expected, _AGAIN))
    if faults:
        raise DataError("The model is damaged", faults)


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
