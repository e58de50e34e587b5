"""Preprocessed cases on disk: the record beside them, whether they are current, memory-mapped loading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tumorgen_cli.geometry import Box, Shape, Triple
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.system.json_records import hash_value, read_plain, read_record


@dataclass(frozen=True)
class Component:
    """A tumor component on the working grid: its number in `tumors.npy`, tight box, whether a window can hold it."""

    number: int
    box: Box
    fits: bool


@dataclass(frozen=True)
class CaseRecord:
    """`case.json`, written last: what lies beside it and what it was made from."""

    case: str
    inputs_hash: str
    shape: Shape
    spacing_mm: Triple
    limits: tuple[tuple[float, float], ...]
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Case:
    """A preprocessed case. image: (C, X, Y, Z) float32 in the scan's units; tumors: (X, Y, Z) uint8 component numbers."""

    record: CaseRecord
    image: np.ndarray
    tumors: np.ndarray


def inputs_hash(plan: Plan, case: str) -> str:
    """What a preprocessed case depends on: the data, the working spacing, the clip limits, the window."""
    return hash_value(
        [plan.fingerprint_hash, case, plan.window.spacing_mm, plan.window.shape, plan.channels, plan.tumor_label]
    )


def is_done(plan: Plan, case: str, folder: Path) -> bool:
    """Whether `folder` holds this case, made from what the plan says now."""
    path = folder / "case.json"
    return path.is_file() and read_plain(path, "run `tumorgen preprocess`").get("inputs_hash") == inputs_hash(
        plan, case
    )


@lru_cache(maxsize=512)
def load_case(folder: Path) -> Case:
    """The memory-mapped case in `folder`.

    Raises:
        StateError: not preprocessed.
    """
    record = read_record(CaseRecord, folder / "case.json", "run `tumorgen preprocess`")
    return Case(record, np.load(folder / "image.npy", mmap_mode="r"), np.load(folder / "tumors.npy", mmap_mode="r"))
