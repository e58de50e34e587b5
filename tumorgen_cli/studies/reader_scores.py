"""The scores of a reader study: reads the answers that the page exports, and the key. Writes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorgen_cli.studies.reader_lesions import Truth
from tumorgen_cli.studies.reader_study import Key, case_id
from tumorgen_cli.system.errors import DataError, Fault, gather_faults, say_count
from tumorgen_cli.system.json_records import from_plain, read_plain, read_record

CONFIDENCES = (1, 2, 3, 4, 5)  # guessed ... certain
SCORE_COLUMNS = ("reader", "answered", "skipped", "sensitivity", "specificity", "accuracy", "AUC", "seconds a case")
SCORE_NOTE = (
    "Positives are the real lesions, as in DiffTumor's Table 1: sensitivity is the share of real lesions called real, "
    "specificity the share of synthetic lesions called synthetic (low where they look real). Intervals are 95 % Wilson "
    "intervals; skipped cases are not counted. Accuracy and AUC of 0.5 are chance. Pooled intervals assume independent "
    "answers, although readers see the same cases."
)


@dataclass(frozen=True)
class Answer:
    """A reader's answer on a case.

    Answer and confidence are None where the case was skipped or never opened. `seconds`: how long it was in view.
    """

    case: str
    answer: Truth | None
    confidence: int | None
    comment: str
    seconds: float


@dataclass(frozen=True)
class Answers:
    """The file that the page exports."""

    study: str
    reader: str
    exported: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` with its 95 % Wilson interval; nan where `total` is 0."""

    count: int
    total: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ReaderScores:
    """The scores of one reader, or of all readers' answers together.

    Positives are the real lesions; see `SCORE_NOTE`.
    """

    reader: str
    answered: int
    skipped: int
    sensitivity: Proportion
    specificity: Proportion
    accuracy: Proportion
    auc: float
    seconds: float


@dataclass(frozen=True)
class StudyScores:
    """The scores of a study. `pooled` takes all answers of all readers together."""

    study: str
    cases: int
    readers: tuple[ReaderScores, ...]
    pooled: ReaderScores


def score_study(answer_files: Sequence[Path], key_file: Path) -> StudyScores:
    """Score every reader, and all answers together. A case that is missing in a file counts as skipped.

    AUC: how often a real lesion was rated more real than a synthetic one; ties count half. Ratings run from "synthetic,
    certain" over "synthetic, guessed" and "real, guessed" to "real, certain".

    Raises:
        DataError: Every fault of every file: no key, no JSON, wrong fields, another study, unknown or repeated cases,
            an answer without confidence, a reader twice.
    """
    faults: list[Fault] = []
    if not answer_files:
        faults.append(
            Fault("answers", "no file", "one per reader", "give the files that the readers exported from the page")
        )
    key_remedy = "give the key.json that was written with the page"
    key = gather_faults(faults, lambda: read_record(Key, key_file, key_remedy))
    read = [(path, found) for path in answer_files if (found := _read_answers(path, faults)) is not None]
    if key is None:
        raise DataError("The answers cannot be scored", faults)
    truths = {case.id: case.truth for case in key.cases}
    for path, answers in read:
        faults += _answer_faults(path, answers, key.study, truths)
    faults += _repeated_readers(read)
    if faults:
        raise DataError("The answers cannot be scored", faults)
    readers = tuple(_score(answers.reader, [answers], truths) for _, answers in read)
    return StudyScores(key.study, len(key.cases), readers, _score("all", [answers for _, answers in read], truths))


def score_rows(scores: StudyScores) -> list[tuple[str, ...]]:
    """Return the scores as rows under `SCORE_COLUMNS`; with several readers the last row is all answers together."""
    shown = (*scores.readers, scores.pooled) if len(scores.readers) > 1 else scores.readers
    return [
        (
            s.reader,
            str(s.answered),
            str(s.skipped),
            _interval(s.sensitivity),
            _interval(s.specificity),
            _interval(s.accuracy),
            _number(s.auc, 3),
            _number(s.seconds, 1),
        )
        for s in shown
    ]


def wilson(count: int, total: int) -> Proportion:
    """Return a share with its 95 % Wilson score interval.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if not total:
        return Proportion(0, 0, math.nan, math.nan, math.nan)
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(0.95, "wilson")
    return Proportion(count, total, count / total, float(interval.low), float(interval.high))


def rating_auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the share of pairs in which the positive is rated higher, ties half; nan where a side is empty."""
    if not positives or not negatives:
        return math.nan
    from sklearn.metrics import roc_auc_score

    truths = [True] * len(positives) + [False] * len(negatives)
    return float(roc_auc_score(truths, [*positives, *negatives]))


def _read_answers(path: Path, faults: list[Fault]) -> Answers | None:
    remedy = "export it from the page again"
    return gather_faults(faults, lambda: from_plain(Answers, read_plain(path, remedy), str(path), remedy))


def _answer_faults(path: Path, answers: Answers, study: str, truths: dict[str, Truth]) -> list[Fault]:
    if answers.study != study:  # its other faults follow from this one
        return [
            Fault(
                str(path),
                f"answers to study {answers.study}",
                f"study {study}",
                "give its own key, or leave the file out",
            )
        ]
    faults = []
    if not answers.reader.strip():
        faults.append(Fault(f"{path}: reader", "no name", "the reader's name", "write it into the field `reader`"))
    for case, count in Counter(answer.case for answer in answers.answers).items():
        if case not in truths:
            faults.append(
                Fault(
                    f"{path}: case {case}",
                    "an unknown case",
                    f"one of 001 to {case_id(len(truths))}",
                    "export it from the page again",
                )
            )
        if count > 1:
            faults.append(Fault(f"{path}: case {case}", f"{count} answers", "one", "delete all but one of them"))
    for answer in answers.answers:
        where = f"{path}: case {answer.case}"
        if answer.answer is not None and answer.confidence not in CONFIDENCES:
            faults.append(
                Fault(where, f"confidence {answer.confidence}", "1 to 5", "ask the reader, or set the answer to null")
            )
        if not (math.isfinite(answer.seconds) and answer.seconds >= 0):
            faults.append(Fault(where, f"{answer.seconds} seconds", "a time", "export it from the page again"))
    return faults


def _repeated_readers(read: Sequence[tuple[Path, Answers]]) -> list[Fault]:
    paths: dict[str, list[Path]] = {}
    for path, answers in read:
        paths.setdefault(answers.reader.strip().casefold(), []).append(path)
    return [
        Fault(
            ", ".join(map(str, found)),
            f"{say_count(len(found), 'file')} of reader {name}",
            "one file per reader",
            "leave the older out, or rename a namesake",
        )
        for name, found in paths.items()
        if name and len(found) > 1
    ]


def _score(reader: str, files: Sequence[Answers], truths: dict[str, Truth]) -> ReaderScores:
    given = [answer for answers in files for answer in answers.answers if answer.answer is not None]
    right: dict[Truth, int] = {"real": 0, "synthetic": 0}
    ratings: dict[Truth, list[float]] = {"real": [], "synthetic": []}
    for answer in given:
        truth = truths[answer.case]
        right[truth] += answer.answer == truth
        ratings[truth].append((answer.confidence or 0) * (1 if answer.answer == "real" else -1))
    return ReaderScores(
        reader=reader,
        answered=len(given),
        skipped=len(truths) * len(files) - len(given),
        sensitivity=wilson(right["real"], len(ratings["real"])),
        specificity=wilson(right["synthetic"], len(ratings["synthetic"])),
        accuracy=wilson(right["real"] + right["synthetic"], len(given)),
        auc=rating_auc(ratings["real"], ratings["synthetic"]),
        seconds=float(np.median([answer.seconds for answer in given])) if given else math.nan,
    )


def _interval(p: Proportion) -> str:
    return f"{p.value:.3f} [{p.low:.3f}, {p.high:.3f}] ({p.count} of {p.total})" if p.total else "undefined (0 of 0)"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "undefined"
