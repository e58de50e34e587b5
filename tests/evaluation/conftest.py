"""A planned data set and a synthetic set, written by hand."""

import numpy as np
import pytest
from support.sets import SHAPE, SPLITS, ball, scan, write_case, write_set

from tumorgen_cli.planning.plan import ChannelPlan, PastePlan, Plan, WindowPlan


@pytest.fixture
def few_resamples(monkeypatch):
    """A bootstrap that is quick, where a test needs many of them."""
    monkeypatch.setattr("tumorgen_cli.metrics.inference.RESAMPLES", 200)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    for i, case in enumerate((*SPLITS.train, *SPLITS.test)):
        tumor = ball((12 + i % 3, 10, 9 - i % 2), 12 + 2 * i)
        write_case(folder, case, scan(tumor, 5 + i, i), tumor * 2)
    return Plan(
        schema=1,
        dataset="D",
        dataset_path=str(folder),
        fingerprint_hash="f",
        file_ending=".nii.gz",
        labels={"background": 0, "organ": 1, "tumor": 2},
        tumor_name="tumor",
        tumor_label=2,
        channels=(ChannelPlan("PET", "dataset", 0.0, 12.0, 0.5),),
        main_channel=0,
        window=WindowPlan((5.0, 5.0, 5.0), (16, 16, 16), 0.1),
        paste=PastePlan(7.5, 10, 0.1, 0.0, 6.0, (0,), "data", "surroundings"),
        device="cpu",
        precision="fp32",
        memory_gib=1.0,
        seed=0,
        tolerance_mm=5.0,
        methods={},
        decisions=(),
    )


@pytest.fixture
def synthetic(tmp_path):
    """Three pairs: one the judge agrees with, one shifted by two voxels, one it cannot see; organs around are labeled
    1."""
    organ = np.zeros(SHAPE, np.uint8)
    organ[2:5] = 1
    seen, half, faint = ball((12, 10, 8), 14), ball((13, 10, 8), 10), ball((12, 10, 9), 14)
    pairs = [
        ("a", "x", scan(seen, 6, 11), organ + 2 * seen),
        ("b", "x", scan(np.roll(half, 2, 0), 6, 12), organ + 2 * half),
        ("c", "y", scan(faint, 1.5, 13), organ + 2 * faint),
    ]
    return write_set(tmp_path / "synthetic" / "toy", pairs)
