"""Errors that the user can correct: the nearest names, and what the operating system says."""

import errno
import os

import pytest

from tumorgen_cli.system.errors import did_you_mean, from_system_error, say_count

FIELDS = (
    "window.alpha",
    "window.shape",
    "paste.draws",
    "methods.difftumor.ddpm.copies",
    "methods.tumorgen.flow.copies",
    "methods.tumorgen.flow.coarse_weight",
    "methods.tumorgen.sampling.steps",
)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("window.alhpa", "did you mean window.alpha?"),
        ("steps", "did you mean methods.tumorgen.sampling.steps?"),
        ("Draws", "did you mean paste.draws?"),
        ("copes", "did you mean methods.difftumor.ddpm.copies or methods.tumorgen.flow.copies?"),
        ("methods.tumorgan.flow.copies", "did you mean methods.tumorgen.flow.copies?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_names_are_suggested(name: str, asked: str) -> None:
    assert did_you_mean(name, FIELDS) == asked


@pytest.mark.parametrize(("count", "said"), [(0, "0 real cases"), (1, "1 real case"), (2, "2 real cases")])
def test_a_count_agrees_with_its_noun(count: int, said: str) -> None:
    assert say_count(count, "real case") == said


def test_case_is_ignored_and_at_most_so_many_names_are_suggested() -> None:
    assert did_you_mean("COPYPASTE", ("syntumor", "copypaste")) == "did you mean copypaste?"
    assert did_you_mean("case", ("case_1", "case_2", "case_3"), most=2) == "did you mean case_1 or case_2?"
    assert did_you_mean("case", ()) == ""


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space and run the same command again; what was finished is kept"),
        (errno.EFBIG, "raise the limit (`ulimit -f unlimited`), or use another disk"),
        (errno.EACCES, "change its permissions, or choose another folder"),
        (errno.EPERM, "change its permissions"),
        (errno.EROFS, "choose another folder"),
        (errno.ENOENT, "put it back, or correct the path"),
        (errno.ENOTDIR, "move the file away, or choose another folder with --work or --out"),
        (errno.EISDIR, "move the folder away, or choose another folder"),
        (errno.ENAMETOOLONG, "rename the file, or choose another folder with --work or --out"),
        (errno.ELOOP, "correct the link"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "check the disk or the network share, then run the same command again"),
        (
            errno.EXDEV,
            "correct the path or the machine, then run the same command again",
        ),  # one without an entry of its own
    ],
)
def test_an_error_of_the_system_gets_the_remedy_of_its_number(number: int, remedy: str) -> None:
    error = from_system_error(OSError(number, os.strerror(number), "/data/x"))
    assert error is not None
    (fault,) = error.faults
    assert (fault.where, fault.found) == ("/data/x", os.strerror(number))
    assert remedy in fault.remedy


def test_a_full_disk_that_names_no_file_is_told_and_a_bug_is_not() -> None:
    error = from_system_error(OSError(errno.ENOSPC, "No space left on device"))
    assert error is not None
    assert error.faults[0].where == "a file"
    assert from_system_error(OSError("no number, no path")) is None
    named = from_system_error(OSError(errno.EIO, "broken", "/data/.a.tmp"), "/data/a")
    assert named is not None
    assert named.faults[0].where == "/data/a"
