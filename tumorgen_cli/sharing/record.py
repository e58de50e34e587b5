"""The record of a model, `model.json`: what it is, what it learned from, what was measured, which files it has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tumorgen_cli.geometry import Triple
from tumorgen_cli.sharing.membership import Membership
from tumorgen_cli.system.errors import Fault

#: to be raised when the files of a model, or a field of its record, change
MODEL_FORMAT = 2
RECORD, CARD = "model.json", "MODEL_CARD.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


@dataclass(frozen=True)
class FileSum:
    """What a file of the model must be: its SHA-256 in hex, and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class LearnedData:
    """What a model has learned from, pooled.

    Attributes:
        dataset: name of the data set.
        cases: number of training cases.
        tumors: number of their tumors.
        held_out: number of cases that the method has not learned from.
        healthy: number of scans without labels that it has learned from, too.
        spacing_mm: median voxel edges.
        extent_mm: median edges of the scans.
        volume_ml: 10th, 50th and 90th percentile of the tumors' pooled volumes.
    """

    dataset: str
    cases: int
    tumors: int
    held_out: int
    healthy: int
    spacing_mm: Triple
    extent_mm: Triple
    volume_ml: Triple


@dataclass(frozen=True)
class StageFacts:
    """How a stage was trained, and what was measured at its end."""

    stage: str
    iterations: int
    planned: int
    seconds: float
    device: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class SetFigures:
    """What `evaluate` found in a set that these weights have painted: title and text of each figure."""

    name: str
    pairs: int
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ModelRecord:
    """What is known of a model.

    Attributes:
        format: `MODEL_FORMAT` of the version that wrote it.
        name: its name among installed models.
        method: the method that paints.
        versions: of tumorgen and of the packages that trained it.
        weight_formats: by stage, `Method.format_versions`.
        date: when it was exported, ISO 8601.
        tumor: name of the tumor label.
        channels: names of the channels, in their order.
        purpose: what it is for, a sentence.
        license: under which license it is given.
        data: what it has learned from.
        stages: its training.
        shortfalls: what is known to be too weak about its weights.
        sets: what was measured on pairs that it has painted.
        tested_loss: what the membership test compares, in words; empty: no network has learned from tumors.
        membership: whether this loss tells training tumors from others; None: not tested.
        left_out: what of the workspace was left out, to protect patients.
        holds: what of single patients it holds all the same.
        files: its other files.
    """

    format: int
    name: str
    method: str
    versions: dict[str, str]
    weight_formats: dict[str, int]
    date: str
    tumor: str
    channels: tuple[str, ...]
    purpose: str
    license: str
    data: LearnedData
    stages: tuple[StageFacts, ...]
    shortfalls: tuple[str, ...]
    sets: tuple[SetFigures, ...]
    tested_loss: str
    membership: Membership | None
    left_out: tuple[str, ...]
    holds: tuple[str, ...]
    files: dict[str, FileSum]


def model_name_faults(where: str, name: str) -> list[Fault]:
    """The fault of a name that cannot be a folder and a word on the command line."""
    if _NAME.fullmatch(name):
        return []
    expected = "letters, digits, _ . + -, a letter or digit first, at most 100"
    return [Fault(where, repr(name)[:120], expected, "give another name with --name")]
