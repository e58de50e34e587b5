"""Preprocessed cases on disk: their records, whether they are current, and memory-mapped loading."""

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
    """A tumor component on the working grid: its number in `tumors.npy`, its tight box, whether it fits a window."""

    number: int
    box: Box
    fits: bool


@dataclass(frozen=True)
class CaseRecord:
    """The content of `case.json`, which is written last: what is beside it, and a hash of what it was made from.

    `limits` holds the clip limits per channel, in the scan's intensities.
    """

    case: str
    inputs_hash: str
    shape: Shape
    spacing_mm: Triple
    limits: tuple[tuple[float, float], ...]
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Case:
    """A preprocessed case.

    `image` is (C, X, Y, Z) float32 in the scan's units; `tumors` is (X, Y, Z) with the numbers of components, 0
    outside.
    """

    record: CaseRecord
    image: np.ndarray
    tumors: np.ndarray


def inputs_hash(plan: Plan, case: str) -> str:
    """Hash everything that a preprocessed case depends on: data, working spacing, window and channel scaling."""
    return hash_value(
        [plan.fingerprint_hash, case, plan.window.spacing_mm, plan.window.shape, plan.channels, plan.tumor_label]
    )


def is_done(plan: Plan, case: str, folder: Path) -> bool:
    """Whether a folder holds this case, made from the current plan."""
    path = folder / "case.json"
    return path.is_file() and read_plain(path, "run `tumorgen preprocess`").get("inputs_hash") == inputs_hash(
        plan, case
    )


@lru_cache(maxsize=512)
def load_case(folder: Path) -> Case:
    """Load the memory-mapped case in a folder.

    Raises:
        StateError: the case is not preprocessed.
    """
    record = read_record(CaseRecord, folder / "case.json", "run `tumorgen preprocess`")
    return Case(record, np.load(folder / "image.npy", mmap_mode="r"), np.load(folder / "tumors.npy", mmap_mode="r"))
